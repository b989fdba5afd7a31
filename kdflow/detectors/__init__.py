"""Detectors as stages and ports: one file per family, on the parts of well-kept libraries."""
