"""Models: checks of their files, loading, packed attention, scores of a forward pass, generated answers."""
