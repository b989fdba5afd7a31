"""Regions: choosing boxes, and reading maps at boxes."""
