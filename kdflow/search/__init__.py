"""Search: Optuna over what a spec marks ``search:``, by any number of workers that share one storage.

The package can be called: ``kdflow.search("defeat", trials=20)`` is :func:`kdflow.search.call.search`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Search; see :func:`kdflow.search.call.search`."""
        from kdflow.search.call import search

        return search(*arguments, **options)


sys.modules[__name__].__class__ = _Package
