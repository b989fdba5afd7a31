"""Comparisons of methods by one protocol: equal teacher, data, images and tuning for all, and a verdict that can be "no"."""
