"""FRS."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from tests.goldens.references import Case, Draw, add, convolve, group


def cases() -> Iterator[Draw]:
    for seed, batch, width, sizes, classes, iteration in (
        (0, 1, 3, [(5, 7)], 1, 40),
        (1, 3, 4, [(6, 4), (3, 2), (1, 1)], 9, 900),
        (2, 2, 2, [(4, 9)], 3, 0),
    ):
        draw = Draw(seed).set(weight_feature=0.5, weight_cls=0.2, iteration=iteration, warmup_iterations=500)
        draw.maps("student.neck", batch, width, sizes).maps("teacher.neck", batch, width, sizes)
        draw.maps("student.logits", batch, classes, sizes).maps("teacher.logits", batch, classes, sizes)
        for level in range(len(sizes)):
            draw.convolution(f"param.{level}.adapter", width, width, 3)
        yield draw


def reference(case: Case) -> dict[str, Tensor]:
    features, classes = [], []
    names = ("student.neck", "teacher.neck", "student.logits", "teacher.logits")
    for level, (ours, theirs, z, target) in enumerate(zip(*(group(case, name) for name in names), strict=True)):
        rich = target.sigmoid().amax(1, keepdim=True)
        error = (theirs - convolve(case, f"param.{level}.adapter", ours, padding=1)).square()
        features.append((rich * error).sum() / rich.sum())
        entropy = binary_cross_entropy_with_logits(z, target.sigmoid(), reduction="none")
        classes.append((rich * entropy).sum() / rich.sum())
    ramp = min(float(case["hp.iteration"] / case["hp.warmup_iterations"]), 1.0)
    feature = ramp * case["hp.weight_feature"] * add(features)
    cls = ramp * case["hp.weight_cls"] * add(classes)
    return {"feature": feature, "cls": cls, "total": feature + cls}
