"""Training: examples in, changed weights out."""
