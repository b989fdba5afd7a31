"""Python's search for garbage in circles, held back where nearly everything that is made stays."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

SELDOM = (200_000, 50, 100)
"""Thresholds of :func:`gc.set_threshold`: a fifth of a million objects more before it looks at the newest of them."""


@contextmanager
def seldom_collecting() -> Iterator[None]:
    """Looks for garbage seldom, while libraries are imported and models are built: that is a fifth of the work otherwise.

    Not for training, where garbage in circles may hold a device's memory. Works as a decorator, too.
    """
    before = gc.get_threshold()
    gc.set_threshold(*SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)
