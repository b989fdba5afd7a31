"""Matching: which prediction of one model belongs to which of the other."""
