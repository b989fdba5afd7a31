"""Ops on one number per place, row or query: boolean algebra, comparisons, products."""
