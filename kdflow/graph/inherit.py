"""Student stages that start from a teacher's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch

from kdflow.errors import UsageError
from kdflow.ports import Detector
from kdflow.spec.method import Inherit


def inherit(rules: Sequence[Inherit], detectors: Mapping[str, Detector]) -> dict[str, int]:
    """Copy weights from teachers to the student as ``init:`` says.

    Args:
        rules: Patterns over the student's state-dict names; the teacher's entry of the same name is taken where shapes agree.
        detectors: Owner -> detector.

    Returns:
        Pattern -> number of tensors copied.

    Raises:
        UsageError: A pattern that copies nothing, or a teacher that does not exist.
    """
    copied: dict[str, int] = {}
    student = detectors["student"].model.state_dict()
    for rule in rules:
        source = detectors[rule.source].model.state_dict() if rule.source in detectors else {}
        names = inherited(rule, detectors)
        with torch.no_grad():
            for name in names:
                student[name].copy_(source[name])
        copied[rule.student] = len(names)
    return copied


def inherited(rule: Inherit, detectors: Mapping[str, Detector]) -> list[str]:
    """Names of the student's tensors that a rule fills; raises UsageError where there are none, or no such teacher."""
    teachers = [owner for owner in detectors if owner != "student"]
    if rule.source not in teachers:
        known = f"this run has {', '.join(teachers)}" if teachers else "this run has no teacher"
        raise UsageError(f'there is no "{rule.source}" to inherit from; {known}')
    student, source = (detectors[owner].model.state_dict() for owner in ("student", rule.source))
    names = [n for n in student if fnmatchcase(n, rule.student) and n in source and source[n].shape == student[n].shape]
    if not names:
        raise UsageError(f'"{rule.student}" fits no weights of equal name and shape in student and {rule.source}')
    return names
