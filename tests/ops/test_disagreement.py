"""General instances."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_iou

from kdflow.ops.regions.disagreement import disagreement

SIZES = [(64, 64), (64, 48)]


def places(seed: int = 0, spread: float = 20.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.rand(2, 60, 2, generator=generator) * 50
    return list(
        torch.cat([first, first + 5 + torch.rand(2, 60, 2, generator=generator) * spread], -1).split([40, 20], 1)
    )


def logits(seed: int) -> list[torch.Tensor]:
    return list(torch.randn(2, 60, 3, generator=torch.Generator().manual_seed(seed)).split([40, 20], 1))


@pytest.mark.parametrize("score", ["max_then_diff", "diff_then_max"])
def test_best_come_first_do_not_overlap_and_lie_on_the_image(score: str) -> None:
    found = disagreement(logits(1), logits(2), places(3), places(4), SIZES, k=6, score=score)  # type: ignore[arg-type]
    for boxes, scores, (height, width) in zip(found["boxes"], found["scores"], SIZES, strict=True):
        assert 0 < len(boxes) <= 6
        assert (scores[:-1] >= scores[1:]).all()
        assert (box_iou(boxes, boxes) - torch.eye(len(boxes))).max() <= 0.3
        assert (boxes[:, 2] <= width).all()
        assert (boxes[:, 3] <= height).all()
        assert (boxes[:, 2:] - boxes[:, :2] > 10).all()


def test_the_box_is_that_of_the_surer_model() -> None:
    sure, unsure = [torch.full((1, 1, 2), 3.0)], [torch.full((1, 1, 2), -3.0)]
    ours, theirs = [torch.tensor([[[0.0, 0, 20, 20]]])], [torch.tensor([[[10.0, 10, 40, 40]]])]
    taken = disagreement(unsure, sure, ours, theirs, [(64, 64)])["boxes"][0]
    assert torch.equal(taken, theirs[0][0])
    assert torch.equal(disagreement(sure, unsure, ours, theirs, [(64, 64)])["boxes"][0], ours[0][0])


def test_equal_models_still_give_instances_with_score_zero() -> None:
    found = disagreement(logits(1), logits(1), places(3), places(3), SIZES)
    assert all(len(b) and not s.any() for b, s in zip(found["boxes"], found["scores"], strict=True))


def test_small_boxes_leave_an_image_without_instances() -> None:
    found = disagreement(logits(1), logits(2), places(3, spread=1.0), places(4, spread=1.0), SIZES)
    assert [b.shape for b in found["boxes"]] == [(0, 4), (0, 4)]


def test_inputs_are_not_overwritten() -> None:
    ours = places(3)
    before = [level.clone() for level in ours]
    disagreement(logits(1), logits(2), ours, places(4), SIZES)
    assert all(torch.equal(a, b) for a, b in zip(ours, before, strict=True))
