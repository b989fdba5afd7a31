"""CWD."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from tests.goldens.references import Case, Draw, add, convolve, divergence, group

DIFFERENTIATED = {"grad_kl": "kl"}


def cases() -> Iterator[Draw]:
    for seed, batch, ours, theirs, sizes in (
        (0, 1, 3, 3, [(5, 7)]),
        (1, 3, 4, 4, [(6, 4), (3, 2), (1, 1)]),
        (2, 3, 3, 7, [(4, 9), (2, 5)]),
    ):
        draw = Draw(seed).set(tau=2.5, weight=0.7)
        draw.maps("student.map", batch, ours, sizes).maps("teacher.map", batch, theirs, sizes)
        for level in range(len(sizes) if ours != theirs else 0):
            draw.convolution(f"param.{level}.align", theirs, ours)
        yield draw


def reference(case: Case) -> dict[str, Tensor]:
    losses = []
    for level, (ours, theirs) in enumerate(zip(group(case, "student.map"), group(case, "teacher.map"), strict=True)):
        ours = convolve(case, f"param.{level}.align", ours)
        channels = divergence(theirs.flatten(2), ours.flatten(2), case["hp.tau"])
        losses.append(case["hp.weight"] * channels.mean())
    return {"kl": add(losses)}
