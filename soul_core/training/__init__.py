"""Training: from rows as tokens to changed weights."""
