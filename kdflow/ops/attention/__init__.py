"""Attention: where on a map, or in which channels, something stands out."""
