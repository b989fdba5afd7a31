"""Properties of DIST."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.methods.shipped import maps, plan_of, terms_of

ROWS = (9, 4)


def terms(ours: Tensor, theirs: Tensor) -> list[Tensor]:
    return terms_of(plan_of("dist", {"student.roi.logits": ours, "shared.logits": theirs}), "classes", "regions")


def dense_terms(ours: list[Tensor], theirs: list[Tensor], grid: list[Tensor]) -> list[Tensor]:
    given = {"student.head.logits": ours, "teacher.head.logits": theirs, "student.neck": grid, "teacher.neck": grid}
    return terms_of(plan_of("dist", given, family="dense"), "classes", "regions")


def test_equal_scores_and_shifted_logits_give_zero() -> None:
    (theirs,) = maps(ROWS)
    for value in terms(theirs + torch.linspace(-1, 1, ROWS[0])[:, None], theirs):
        assert float(value) == pytest.approx(0, abs=1e-5)


def test_only_relations_count_scores_may_be_of_any_scale() -> None:
    (theirs,) = maps(ROWS)
    pale = (0.2 * theirs.softmax(1) + 0.2).log()  # softmax gives it back: 0.2 * scores + 0.2 adds up to 1
    for value in terms(pale, theirs):
        assert float(value) == pytest.approx(0, abs=1e-5)
    classes, regions = terms(-8 * theirs, 8 * theirs)
    assert 1 < float(classes) <= 2
    assert 1 < float(regions) <= 2


def test_one_region_alone_has_no_relation_to_others() -> None:
    (theirs,) = maps((1, 4))
    classes, regions = terms(theirs.clone().requires_grad_(), theirs)
    assert float(classes.detach()) == pytest.approx(0, abs=1e-5)
    assert float(regions.detach()) == 1
    assert torch.isfinite(regions)


def test_all_anchors_of_a_cell_are_one_vector_and_levels_are_summed() -> None:
    grid = maps((2, 8, 3, 2), (2, 8, 2, 1))
    ours, theirs = (maps((2, 12, 3), (2, 4, 3), seed=seed) for seed in (0, 1))
    wanted = 0.0
    for own, other in zip(ours, theirs, strict=True):
        tables = [side.reshape(-1, 6).sigmoid() for side in (own, other)]  # two anchors of three classes
        wanted += 1 - torch.stack([torch.corrcoef(torch.stack(rows))[0, 1] for rows in zip(*tables, strict=True)]).mean()
    torch.testing.assert_close(dense_terms(ours, theirs, grid)[0], torch.as_tensor(wanted))


def test_both_terms_reach_the_student() -> None:
    (ours,), (theirs,) = maps(ROWS, grad=True), maps(ROWS, seed=1)
    for value in terms(ours, theirs):
        (grad,) = torch.autograd.grad(value, ours, retain_graph=True)
        assert grad.any()
