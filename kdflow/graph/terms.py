"""Terms: the summands of the loss, the method's own and the detector's."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from kdflow.errors import choices
from kdflow.graph.node import Node, Operand, Role
from kdflow.operation import OPS
from kdflow.spec.load import Steps
from kdflow.spec.method import DIVISORS, TermEntry

if TYPE_CHECKING:
    from kdflow.graph.build import Builder


def is_word(divisor: str) -> bool:
    """True for axis names and the words ``rows`` and ``elements`` in ``over``, which are no references."""
    return divisor in DIVISORS


def add_terms(builder: Builder) -> None:
    """Add the method's terms (``kd/<name>``), then the student's own losses (``det/<name>``) as the method wants them."""
    add_method_terms(builder)
    if "student" in builder.detectors and not builder.given:
        check_detector_terms(builder)
        _add_detector_terms(builder)


def add_method_terms(builder: Builder) -> None:
    """Add the method's terms."""
    for name, entry in builder.method.distillation_terms.items():
        _add_term(builder, name, entry)


_DETECTOR_KEYS = {"weight", "sign", "schedule", "drop"}


def check_detector_terms(builder: Builder) -> None:
    """Names and keys of what the method changes in the student's own losses."""
    losses = builder.detectors["student"].losses
    for name, entry in builder.method.detector_terms.items():
        path: Steps = ("terms", f"det.{name}")
        if name not in losses:
            builder.document.report(path, f'the student has no loss "{name}".{choices(name, losses)}')
        if entry.share is not None:
            problem = "a share is for the method's own terms, beside the detector's losses; give this loss a number"
            builder.document.report((*path, "weight"), problem)
        for key in sorted({*entry.model_dump(exclude_defaults=True)} - _DETECTOR_KEYS):
            problem = f'"{key}" has no effect on a loss of the detector.{choices(key, _DETECTOR_KEYS)}'
            builder.document.report((*path, key), problem)


def _add_term(builder: Builder, name: str, entry: TermEntry) -> None:
    path: Steps = ("terms", name)
    if (entry.loss is None) == (entry.value is None):
        alike = next((key for key in entry.arguments if get_close_matches(key, ("loss", "value"), n=1, cutoff=0.75)), None)
        builder.document.report((*path, alike) if alike else path, "a term has exactly one of loss: and value:")
        return
    if entry.drop:
        builder.document.report((*path, "drop"), "drop: is for the detector's own losses (det.NAME); remove this term instead")
    if entry.loss is not None and entry.loss in OPS and not entry.loss.startswith("loss."):
        builder.document.report(
            (*path, "loss"), f"{entry.loss} is no loss (those are called loss.*); make it a node and compare its value"
        )
        return
    value = _value(builder, name, entry, path)
    inputs = {"value": value, **_operands(builder, entry, path)}
    if value is not None and (loss := builder.graph[value]).role is Role.OP:
        inputs["student"] = loss.inputs.get("student")
    ready: dict[str, Operand] = {k: v for k, v in inputs.items() if v is not None}
    if {"value", "factors", "rows", "over"} <= set(ready):
        builder.graph.add(Node(f"kd/{name}", Role.TERM, ready, path=path, term=entry))


def _value(builder: Builder, name: str, entry: TermEntry, path: Steps) -> str | None:
    """The node whose result the term reduces: a loss op of its own, or the scalar that ``value:`` names."""
    if entry.loss is not None:
        return builder.op(f"{name}.loss", entry.loss, dict(entry.arguments), path, weights=f"{name}.loss")
    for key in entry.arguments:
        builder.document.report((*path, key), f'unknown key "{key}" in a term with value:')
    return builder.reference(entry.value, (*path, "value"))


def _operands(builder: Builder, entry: TermEntry, path: Steps) -> dict[str, Operand | None]:
    rows = [] if entry.rows is None else [entry.rows] if isinstance(entry.rows, str) else list(entry.rows)
    divisors = [d for d in entry.reduce.over if isinstance(d, str) and not is_word(d)]
    return {
        "factors": builder.operand(list(entry.factors), True, (*path, "factors")),
        "rows": builder.operand(rows, True, (*path, "rows")),
        "over": builder.operand(divisors, True, (*path, "reduce", "over")),
    }


def _add_detector_terms(builder: Builder) -> None:
    losses, changes = builder.detectors["student"].losses, builder.method.detector_terms
    for name, port in losses.items():
        entry = changes.get(name, TermEntry())
        if not entry.drop:
            value = builder.port("student", port)
            builder.graph.add(
                Node(f"det/{name}", Role.TERM, {"value": value}, path=("terms", f"det.{name}"), term=entry)
            )
