"""Where things lie."""

from __future__ import annotations

from pathlib import Path

BENCH = Path(__file__).parent / "benches" / "tiny.yaml"
"""The smallest bench that has everything."""
ROOT = Path(__file__).parents[1]
"""Folder of the project."""
