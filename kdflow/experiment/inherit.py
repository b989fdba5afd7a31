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
        if rule.source not in detectors:
            raise UsageError(f'init: there is no "{rule.source}" to inherit from; this run has {", ".join(detectors)}')
        source = detectors[rule.source].model.state_dict()
        names = [
            n for n in student if fnmatchcase(n, rule.student) and n in source and source[n].shape == student[n].shape
        ]
        if not names:
            raise UsageError(
                f'init: "{rule.student}" fits no weights of equal name and shape in student and {rule.source}'
            )
        with torch.no_grad():
            for name in names:
                student[name].copy_(source[name])
        copied[rule.student] = len(names)
    return copied
