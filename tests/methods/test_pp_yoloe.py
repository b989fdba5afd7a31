"""Properties of PP-YOLOE+'s distillation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.methods.shipped import maps, plan_of, terms_of

RESPONSE = ("classes", "boxes", "edges", "positives")
FEATURES = ("objects", "rest", "places", "channels", "relation")
ROWS = (6, 2)
NECK = ((2, 4, 2, 3), (2, 4, 1, 2))
OBJECT = [0.0, 0.0, 10.0, 10.0]


def rows(width: int, seed: int) -> list[Tensor]:
    return maps(*[(2, count, width) for count in ROWS], seed=seed)


def boxes(seed: int) -> list[Tensor]:
    return [torch.cat([m.abs(), m.abs() + 6 + m[..., :1].abs()], 2) for m in rows(2, seed)]


def marked(*places: tuple[int, int]) -> list[Tensor]:
    """Positives of the first image by level and row."""
    found = [torch.zeros(2, count) > 0 for count in ROWS]
    for level, row in places:
        found[level][0, row] = True
    return found


BASE: Mapping[str, Any] = {
    "student.head.logits": rows(3, 0), "teacher.head.logits": rows(3, 1),
    "student.head.distribution": rows(20, 2), "teacher.head.distribution": rows(20, 3),
    "student.head.boxes": boxes(4), "teacher.head.boxes": boxes(5),
    "student.neck": maps(*NECK, seed=6), "teacher.neck": maps(*NECK, seed=7),
    "student.assign.positive": marked((0, 1), (0, 4), (1, 0)),
    "student.assign.matched_boxes": [torch.tensor(OBJECT).expand(2, count, 4) for count in ROWS],
    "targets.boxes": [torch.tensor([OBJECT]), torch.zeros(0, 4)], "image_sizes": [(16, 24), (16, 24)],
}


def terms(*names: str, **given: Any) -> dict[str, Tensor]:
    plan = plan_of("pp-yoloe", BASE | given, family="dense", strides={"student.neck": (8, 16), "teacher.neck": (8, 16)})
    chosen = names or RESPONSE
    return dict(zip(chosen, terms_of(plan, *chosen), strict=True))


def test_the_same_model_leaves_the_entropy_of_its_distributions() -> None:
    twins = [key for key in BASE if key.startswith("student") and ".assign" not in key]
    found = terms(*RESPONSE, *FEATURES[:-1], **{key: BASE[key.replace("student", "teacher")] for key in twins})
    assert 0 < float(found.pop("edges")) < float(terms()["edges"])
    assert [float(value.detach()) for value in found.values()] == pytest.approx([0] * 7, abs=1e-4)


def test_without_a_positive_only_the_classes_of_all_places_count() -> None:
    found = terms(**{"student.assign.positive": marked()})
    assert float(found.pop("classes")) > 0
    assert [float(value) for value in found.values()] == [0, 0, 0]


def test_a_positive_counts_by_how_well_the_teacher_finds_its_object() -> None:
    theirs = boxes(5)
    theirs[0][0, 1] += 100
    alone = {"student.assign.positive": marked((0, 1)), "teacher.head.boxes": theirs}
    assert float(terms(**alone)["boxes"]) == 0
    assert float(terms(**alone)["edges"]) == 0
    both = {"student.assign.positive": marked((0, 1), (0, 4)), "teacher.head.boxes": theirs}
    one = {"student.assign.positive": marked((0, 4)), "teacher.head.boxes": theirs}
    for name in ("classes", "boxes", "edges"):
        torch.testing.assert_close(terms(**both)[name], terms(**one)[name])


def test_features_of_any_scale_and_offset_are_alike() -> None:
    stretched = {"student.neck": [5 * m - 3 for m in BASE["student.neck"]]}
    for name, value in terms(*FEATURES[:-1]).items():
        torch.testing.assert_close(terms(*FEATURES[:-1], **stretched)[name], value, rtol=1e-3, atol=1e-4)


def test_every_term_trains_its_own_output() -> None:
    keys = ("student.head.logits", "student.head.boxes", "student.head.distribution", "student.head.logits")
    for name, key in zip(RESPONSE, keys, strict=True):
        ours = {k: [m.clone().requires_grad_() for m in BASE[k]] for k in keys}
        grads = torch.autograd.grad(terms(**ours)[name], [m for k in ours for m in ours[k]], allow_unused=True)
        reached = [k for k, grad in zip([k for k in ours for _ in ROWS], grads, strict=True) if grad is not None and grad.any()]
        assert set(reached) == {key}
