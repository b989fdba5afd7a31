"""Two pyramids brought to one size."""

from __future__ import annotations

from typing import Any, Literal

from kdflow.errors import UsageError
from kdflow.functional.resizing import resize_to
from kdflow.kinds import PYRAMID, Pyramid
from kdflow.operation import op


@op("transform.same_size", gives={"student": PYRAMID, "teacher": PYRAMID})
def same_size(
    student: Pyramid,
    teacher: Pyramid,
    resize: Literal["student", "teacher"] = "student",
    mode: Literal["bilinear", "nearest"] = "bilinear",
) -> dict[str, Any]:
    """Both pyramids, level by level at one size; outputs ``student`` and ``teacher``.

    Levels are paired by index. Where sizes agree nothing changes. Source: PKD (arXiv 2207.02039), ``resize_stu``.

    Args:
        student: Maps of the student.
        teacher: As many maps of the teacher.
        resize: Which side is resized to the other's size.
        mode: As in ``transform.resize``.
    """
    if len(student) != len(teacher):
        counts = f"student has {len(student)} levels, teacher {len(teacher)}"
        raise UsageError(f"{counts}; take equal slices, such as neck[0:4]")
    if resize == "teacher":
        moved = [resize_to(t, (s.shape[-2], s.shape[-1]), mode) for s, t in zip(student, teacher, strict=True)]
        return {"student": list(student), "teacher": moved}
    moved = [resize_to(s, (t.shape[-2], t.shape[-1]), mode) for s, t in zip(student, teacher, strict=True)]
    return {"student": moved, "teacher": list(teacher)}
