"""Student stages that start from a teacher's weights, or from those of another trial's student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from kdflow.errors import UsageError
from kdflow.graph.morph import morphed
from kdflow.ports import Detector
from kdflow.spec.method import PARENT, Inherit


def inherit(
    rules: Sequence[Inherit], detectors: Mapping[str, Detector], parent: Mapping[str, Tensor] | None = None
) -> dict[str, int]:
    """Copy weights from teachers, or from a parent, to the student as ``init:`` says.

    Args:
        rules: Patterns over the student's state-dict names; the source's entry of the same name is taken where shapes agree, or
            where they do not, with ``when: any_shapes``.
        detectors: Owner -> detector.
        parent: State dict of the nearest trial's student; without it rules of a parent do nothing.

    Returns:
        Pattern -> number of tensors copied.

    Raises:
        UsageError: A pattern that copies nothing, or a teacher that does not exist.
    """
    copied: dict[str, int] = {}
    for rule in rules:
        source = _source(rule, detectors, parent)
        values = _values(rule, detectors["student"], source)
        if source and not values:
            raise UsageError(f'"{rule.student}" fits no weights of equal name and shape in student and {rule.source}')
        student = detectors["student"].model.state_dict()
        with torch.no_grad():
            for name, value in values.items():
                student[name].copy_(value)
        copied[rule.student] = len(values)
    return copied


def check_rule(rule: Inherit, detectors: Mapping[str, Detector]) -> None:
    """Raise UsageError for a rule that can fill nothing, or whose teacher does not exist."""
    student = detectors["student"].model.state_dict()
    if rule.source == PARENT:
        if not any(fnmatchcase(name, rule.student) for name in student):
            raise UsageError(f'"{rule.student}" fits no weights of the student')
    elif not _comparable(rule, student, _source(rule, detectors, None)):
        raise UsageError(f'"{rule.student}" fits no weights of equal name and shape in student and {rule.source}')


def _source(
    rule: Inherit, detectors: Mapping[str, Detector], parent: Mapping[str, Tensor] | None
) -> Mapping[str, Tensor]:
    if rule.source == PARENT:
        return parent or {}
    teachers = [owner for owner in detectors if owner != "student"]
    if rule.source not in teachers:
        known = f"this run has {', '.join(teachers)}" if teachers else "this run has no teacher"
        raise UsageError(f'there is no "{rule.source}" to inherit from; {known}')
    return detectors[rule.source].model.state_dict()


def _values(rule: Inherit, student: Detector, source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The student's tensors that a rule fills."""
    if rule.when == "any_shapes" and source:
        found = morphed(student.model, source)
        return {name: value for name, value in found.items() if fnmatchcase(name, rule.student)}
    names = _comparable(rule, student.model.state_dict(), source)
    return {name: source[name] for name in names}


def _comparable(rule: Inherit, student: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> list[str]:
    """Names that a rule fits, of tensors in both whose shapes agree (or of as many axes, with ``any_shapes``)."""
    def fits(own: Tensor, other: Tensor) -> bool:
        return own.dim() == other.dim() if rule.when == "any_shapes" else own.shape == other.shape

    names = [name for name in student if fnmatchcase(name, rule.student) and name in source]
    return [name for name in names if fits(student[name], source[name])]
