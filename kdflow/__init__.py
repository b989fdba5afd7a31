"""Declare a knowledge-distillation method for object detectors in one YAML file, and run it.

    import kdflow

    result = kdflow.run("defeat", steps=100)             # declare, check, compile, train, evaluate, record
    found = kdflow.search("defeat", trials=20)           # Optuna over what the spec marks search:
    plan = kdflow.compile("pkd", values={...})           # a formula on given tensors, without any detector
    print(kdflow.results(by="taxonomy", published=True)) # what was measured, beside what was published

Names are loaded when they are first used, so importing kdflow is fast and does not load torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdflow.api import compile, load, look, predict, report, results, run, search
    from kdflow.errors import KdflowError, SpecError
    from kdflow.graph.plan import Plan
    from kdflow.operation import op
    from kdflow.spec.bench import Bench
    from kdflow.spec.method import Method

__version__ = "0.1.0"
__all__ = [
    "load",
    "compile",
    "run",
    "search",
    "results",
    "report",
    "predict",
    "look",
    "Plan",
    "Method",
    "Bench",
    "op",
    "KdflowError",
    "SpecError",
    "__version__",
]

_PLACES = {
    "load": "kdflow.api",
    "compile": "kdflow.api",
    "run": "kdflow.api",
    "results": "kdflow.api",
    "report": "kdflow.api",
    "predict": "kdflow.api",
    "look": "kdflow.api",
    "Plan": "kdflow.graph.plan",
    "Method": "kdflow.spec.method",
    "Bench": "kdflow.spec.bench",
    "op": "kdflow.operation",
    "KdflowError": "kdflow.errors",
    "SpecError": "kdflow.errors",
}


def __getattr__(name: str) -> Any:
    if name == "search":  # the package itself, which can be called
        return importlib.import_module("kdflow.search")
    if name not in _PLACES:
        raise AttributeError(f"module kdflow has no name {name!r}")
    value = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """``kdflow.results`` is the function, also after the subpackage of that name was imported."""

    @property
    def results(self) -> Any:
        return __getattr__("results")

    @results.setter
    def results(self, module: ModuleType) -> None:
        """The import system sets the subpackage here; ``from kdflow.results import ...`` finds it without."""


sys.modules[__name__].__class__ = _Package
