"""Levels of two pyramids that lie on the same grid."""

from __future__ import annotations

from typing import Any

from kdflow.errors import UsageError
from kdflow.kinds import PYRAMID, Pyramid
from kdflow.operation import op


@op("tap.same_grid", gives={"student": PYRAMID, "teacher": PYRAMID})
def same_grid(student: Pyramid, teacher: Pyramid) -> dict[str, Any]:
    """Levels that occur on both sides, paired by height and width instead of index: pairing by stride for equal inputs.

    Outputs ``student`` and ``teacher``, finest first, equally long.

    Args:
        student: Maps of the student.
        teacher: Maps of the teacher, for example P2..P6 against P3..P7.
    """
    grids = {tuple(level.shape[-2:]): level for level in reversed(teacher)}
    paired = [(level, grids[grid]) for level in student if (grid := tuple(level.shape[-2:])) in grids]
    if not paired:
        raise UsageError("no level of the student has the size of one of the teacher's; use transform.same_size")
    return {"student": [s for s, _ in paired], "teacher": [t for _, t in paired]}
