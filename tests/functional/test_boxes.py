from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_iou, generalized_box_iou

from kdflow.functional import boxes as bx


def some(n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * 40
    return torch.cat([corner, corner + 2 + torch.rand(n, 2, generator=generator) * 30], dim=1)


def test_overlaps_agree_with_torchvision() -> None:
    a, b = some(7), some(5, seed=1)
    torch.testing.assert_close(bx.pairwise_iou(a, b), box_iou(a, b))
    torch.testing.assert_close(bx.giou(a[:5], b), generalized_box_iou(a[:5], b).diagonal(), atol=1e-5, rtol=1e-5)


def test_empty_boxes_have_overlap_zero_and_finite_gradient() -> None:
    point = torch.zeros(2, 4, requires_grad=True)
    for value in (bx.iou(point, point), bx.giou(point, point)):
        assert torch.isfinite(value).all()
        (gradient,) = torch.autograd.grad(value.sum(), point)
        assert torch.isfinite(gradient).all()
    assert bx.iou(point, point).sum() == 0


def test_the_union_is_raised_to_eps_and_no_further() -> None:
    tiny = torch.tensor([[0.0, 0.0, 1e-4, 1e-4]])
    assert bx.iou(tiny, tiny).item() == pytest.approx(1e-8 / 1e-6, rel=1e-4)
    assert bx.iou(tiny * 1e4, tiny * 1e4).item() == 1.0


def test_the_centre_penalty_grows_from_zero_to_below_one() -> None:
    box = torch.tensor([[10.0, 10.0, 20.0, 20.0]])
    shifts = [bx.center_penalty(box, box + shift).item() for shift in (0, 2, 10, 1000)]
    assert shifts == sorted(shifts)
    assert shifts[0] == 0
    assert shifts[-1] < 1


def test_inside_is_strict_and_respects_the_margin() -> None:
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    points = torch.tensor([[0.0, 5.0], [0.005, 5.0], [5.0, 5.0], [10.1, 5.0]])
    assert bx.inside(points, box)[:, 0].tolist() == [False, True, True, False]
    assert bx.inside(points, box, margin=0.01)[:, 0].tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("point", "expected"), [((5, 5), 1.0), ((2.5, 5), (2.5 / 7.5) ** 0.5), ((0, 5), 0.0), ((-3, 5), 0.0)]
)
def test_centerness_is_one_in_the_middle_and_zero_outside(point: tuple[float, float], expected: float) -> None:
    value = bx.centerness(torch.tensor([point]).float(), torch.tensor([[0.0, 0.0, 10.0, 10.0]]))
    assert value.item() == pytest.approx(expected)
