"""Passes over a graph; each is a small function with a test of its own."""
