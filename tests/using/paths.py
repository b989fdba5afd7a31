"""Where things lie."""

from __future__ import annotations

from pathlib import Path

LEARNED = Path(__file__).with_name("learned.yaml")
"""A bench whose student finds something after seconds."""
