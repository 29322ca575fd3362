"""Benchmarks: the commands that measure the figures of docs/reference/results.md. The product does not import them."""
