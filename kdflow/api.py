"""What Python code and notebooks call; :mod:`kdflow` exports these names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdflow.errors import UsageError
from kdflow.experiment.run import run
from kdflow.experiment.setup import prepare, read_method
from kdflow.results.call import report, results
from kdflow.search.call import search
from kdflow.spec.resolve import MethodSpec

if TYPE_CHECKING:
    from kdflow.graph.plan import Plan


def load(name: str | Path) -> MethodSpec:
    """A method: a file, or the slug of one that comes with kdflow.

    The files in its ``plugins:`` are imported. ``load(...).resolve()`` gives the checked :class:`~kdflow.spec.method.Method`.

    Raises:
        SpecError: With every fault of the file.
        UsageError: There is no such method; the message lists those there are.
    """
    return read_method(name)


def compile(
    spec: str | Path | MethodSpec,
    bench: str | Path | None = None,
    values: Mapping[str, Any] | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    **options: Any,
) -> Plan:
    """The plan of a method: one ``torch.nn.Module``, on the detectors of a bench or on given values.

    With a bench, ``plan(batch)`` gives named terms, and no weights or data are read. With ``values``, no detector is needed:
    ``plan.evaluate({})`` gives the terms for these values, ``plan.evaluate({"student.neck": other})`` for others.

    Args:
        spec: Slug, file, or a loaded method.
        bench: Name or file of a bench; none takes the method's own (unless there are values).
        values: Reference as written in the spec (``student.neck``, ``shared.logits``, ``targets.boxes``) -> value.
        overrides: Dotted path of method or bench -> value.
        seed: Seed of initial weights and random streams.
        options: With values only: ``families`` (owner -> family), ``strides`` (reference -> strides of a pyramid), ``detectors``
            (owner -> detector, where the method calls stages), ``context`` (what its variants ask).

    Raises:
        SpecError: With every fault of method and bench.
    """
    method = spec if isinstance(spec, MethodSpec) else read_method(spec)
    if values is None:
        if options:
            raise UsageError(f"{', '.join(options)}: only with values=")
        return prepare(method, bench, overrides=overrides, seed=seed).plan
    if bench is not None:
        raise UsageError("give either a bench or values")
    from kdflow.graph.compile import compile_given

    resolved = method.resolve(options.pop("context", None), overrides)
    return compile_given(resolved, method.document, values, seed=seed, **options)


__all__ = ["compile", "load", "report", "results", "run", "search"]
