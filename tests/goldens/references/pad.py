"""PAD."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from tests.goldens.references import Case, Draw, batch_norm, project

DIFFERENTIATED = {"grad": "pad"}


def cases() -> Iterator[Draw]:
    for seed, shape, summed, branch in (
        (0, (1, 5), 1, False),
        (1, (7, 2, 3, 3), 0, False),
        (2, (4, 6), 1, True),
        (3, (9, 2, 2, 1), 0, True),
    ):
        draw = Draw(seed).set(eps=1e-3, reduction_sum_over_samples=summed)
        draw.normal("student.embed", *shape).normal("teacher.embed", *shape)
        width = draw.arrays["student.embed"][0].size
        if branch:
            draw.linear("param.var.0", width, width).normal("param.var.1.weight", width).normal(
                "param.var.1.bias", width
            )
        else:
            draw.normal("student.log_var", shape[0], width)
        yield draw


def reference(case: Case) -> dict[str, Tensor]:
    ours, theirs = (case[f"{side}.embed"].flatten(1) for side in ("student", "teacher"))
    variance = case.get("student.log_var")
    if variance is None:
        variance = batch_norm(case, "param.var.1", project(case, "param.var.0", ours))
    rows = ((theirs - ours).square() / (variance.exp() + case["hp.eps"]) + variance).mean(1)
    return {"pad": rows.sum() if case["hp.reduction_sum_over_samples"] else rows.mean()}
