"""Position codes and anchors that the transformers library keeps by map size, for the whole process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LIBRARY = "transformers.pytorch_utils"


@contextmanager
def uncached() -> Iterator[None]:
    """In this block the library keeps none and finds none, as while it is compiled.

    What a pass on fake tensors kept would be found by a real one later, in a model of any other run as well.
    """
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
