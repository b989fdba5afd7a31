"""Terms: the summands of the loss, the method's own and the detector's."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

from kdflow.errors import choices
from kdflow.graph.link import Linker
from kdflow.graph.node import Node, Operand, Role
from kdflow.graph.references import References
from kdflow.operation import OPS
from kdflow.ports import Detector
from kdflow.spec.load import Document, Steps
from kdflow.spec.method import DIVISORS, Method, TermEntry

OBJECTS = "objects"
"""Word of ``over`` for the number of ground-truth objects."""


def is_word(divisor: str) -> bool:
    """True for axis names and the words ``rows`` and ``elements`` in ``over``, which are no references."""
    return divisor in DIVISORS


def add_method_terms(linker: Linker) -> list[str]:
    """Add the method's terms (``kd/<name>``); returns their nodes."""
    terms = linker.entries.method.distillation_terms
    return [node for name, entry in terms.items() if (node := _add_term(linker, name, entry)) is not None]


_DETECTOR_KEYS = {"weight", "sign", "schedule", "drop"}


def check_detector_terms(method: Method, document: Document, losses: Collection[str]) -> None:
    """Names and keys of what the method changes in the student's own losses."""
    for name, entry in method.detector_terms.items():
        path: Steps = ("terms", f"det.{name}")
        if name not in losses:
            document.report(path, f'the student has no loss "{name}".{choices(name, losses)}')
        if entry.share is not None:
            problem = "a share is for the method's own terms, beside the detector's losses; give this loss a number"
            document.report((*path, "weight"), problem)
        for key in sorted({*entry.model_dump(exclude_defaults=True)} - _DETECTOR_KEYS):
            problem = f'"{key}" has no effect on a loss of the detector.{choices(key, _DETECTOR_KEYS)}'
            document.report((*path, key), problem)


def add_detector_terms(linker: Linker, detector: Detector) -> list[str]:
    """Add the student's own losses (``det/<name>``) as the method wants them; returns their nodes."""
    changes, made = linker.entries.method.detector_terms, []
    for name, port in detector.losses.items():
        entry = changes.get(name, TermEntry())
        if not entry.drop:
            value, path = linker.references.wiring.port("student", port), ("terms", f"det.{name}")
            made.append(linker.nodes.add(Node(f"det/{name}", Role.TERM, {"value": value}, path=path, term=entry)))
    return made


def _add_term(linker: Linker, name: str, entry: TermEntry) -> str | None:
    path: Steps = ("terms", name)
    if not _is_clear(linker.entries.document, entry, path):
        return None
    value = _value(linker, name, entry, path)
    inputs = {"value": value, **_operands(linker.references, entry, path)}
    linker.link()  # what it refers to may have been declared just now
    if value is not None and value in linker.nodes and (loss := linker.nodes[value]).role is Role.OP:
        inputs["student"] = loss.inputs.get("student")
    ready: dict[str, Operand] = {k: v for k, v in inputs.items() if v is not None}
    if not {"value", "factors", "rows", "over"} <= set(ready):
        return None
    return linker.nodes.add(Node(f"kd/{name}", Role.TERM, ready, path=path, term=entry))


def _is_clear(document: Document, entry: TermEntry, path: Steps) -> bool:
    """False after recording that one cannot say what the term reduces."""
    if (entry.loss is None) == (entry.value is None):
        alike = next((key for key in entry.arguments if get_close_matches(key, ("loss", "value"), n=1, cutoff=0.75)), None)
        document.report((*path, alike) if alike else path, "a term has exactly one of loss: and value:")
        return False
    if entry.drop:
        document.report((*path, "drop"), "drop: is for the detector's own losses (det.NAME); remove this term instead")
    if entry.loss is not None and entry.loss in OPS and not entry.loss.startswith("loss."):
        problem = f"{entry.loss} is no loss (those are called loss.*); make it a node and compare its value"
        document.report((*path, "loss"), problem)
        return False
    return True


def _value(linker: Linker, name: str, entry: TermEntry, path: Steps) -> str | None:
    """The node whose result the term reduces: a loss op of its own, or the scalar that ``value:`` names."""
    if entry.loss is not None:
        return linker.op(linker.entries.op(f"{name}.loss", entry.loss, entry.arguments, path))
    for key in entry.arguments:
        linker.entries.document.report((*path, key), f'unknown key "{key}" in a term with value:')
    return linker.references.node(entry.value, (*path, "value"))


def _operands(references: References, entry: TermEntry, path: Steps) -> dict[str, Operand | None]:
    rows = [] if entry.rows is None else [entry.rows] if isinstance(entry.rows, str) else list(entry.rows)
    divisors = [_counted(references, d) for d in entry.reduce.over if isinstance(d, str) and not is_word(d)]
    return {
        "factors": references.operand(list(entry.factors), True, (*path, "factors")),
        "rows": references.operand(rows, True, (*path, "rows")),
        "over": references.operand(divisors, True, (*path, "reduce", "over")),
    }


def _counted(references: References, divisor: str) -> str:
    """The reference that a divisor stands for: ``objects`` is short for the ground truth, unless the method has such a node."""
    method = references.method
    own = divisor in method.nodes or divisor in method.prepare or divisor in references.inputs.given
    return "targets.boxes" if divisor == OBJECTS and not own else divisor
