"""Ops that change what a value looks like: norms, moments, sizes, probabilities, axes."""
