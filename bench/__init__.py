"""Benchmarks: commands whose figures stand in `docs/results.md`. Nothing of the product imports them."""
