"""Tensors that are kept for the whole process by size and device, and passes that must keep none: those on fake tensors.

What such a pass kept would be found by a real one later, in a model of any other run as well.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch._guards import detect_fake_mode

_LIBRARY = "transformers.pytorch_utils"

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def uncached() -> Iterator[None]:
    """In this block the transformers library keeps no position codes and anchors and finds none, as while it is compiled."""
    library: Any = sys.modules.get(_LIBRARY)
    if library is None:
        yield
        return
    asked = library.is_torchdynamo_compiling
    library.is_torchdynamo_compiling = lambda: True
    try:
        yield
    finally:
        library.is_torchdynamo_compiling = asked


def remembered(entries: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Keep the last ``entries`` tensors that a function made, by its arguments; none where tensors are not plain ones.

    As with ``functools.lru_cache``, ``cache_clear()`` of the result forgets them.
    """

    def around(make: Callable[P, R]) -> Callable[P, R]:
        cached: Any = lru_cache(entries)(make)

        @wraps(make)
        def found(*args: P.args, **kwargs: P.kwargs) -> R:
            if torch.compiler.is_compiling() or detect_fake_mode() is not None:
                return make(*args, **kwargs)
            value: R = cached(*args, **kwargs)
            return value

        found.cache_clear = cached.cache_clear  # type: ignore[attr-defined]
        return found

    return around
