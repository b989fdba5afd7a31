"""Queries: choosing among the predictions of a transformer decoder."""
