"""Benchmarks: commands whose figures stand in `docs/reference/results.md`. Nothing of the product imports them."""
