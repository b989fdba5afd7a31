"""Tensor facts that are checked where they are used."""

from __future__ import annotations

from torch import Tensor

from kdflow.errors import UsageError


def same_shape(student: Tensor, teacher: Tensor) -> None:
    """Raise UsageError where broadcasting would hide a mistake."""
    if student.shape != teacher.shape:
        shapes = f"student is {tuple(student.shape)}, teacher is {tuple(teacher.shape)}"
        raise UsageError(f"{shapes}; put an adapter (adapter.conv, adapter.linear) or transform.resize before the loss")
