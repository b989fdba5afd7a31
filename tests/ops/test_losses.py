from __future__ import annotations

from typing import Literal

import pytest
import torch

from kdflow.errors import UsageError
from kdflow.operation import OPS
from kdflow.ops.losses.bernoulli_kl import bernoulli_kl
from kdflow.ops.losses.binary_cross_entropy import binary_cross_entropy
from kdflow.ops.losses.cosine import cosine
from kdflow.ops.losses.iou import iou
from kdflow.ops.losses.kl import kl
from kdflow.ops.losses.quality_focal import quality_focal
from kdflow.ops.losses.smooth_l1 import smooth_l1
from kdflow.ops.losses.squared_error import squared_error

FORMS: tuple[Literal["iou", "giou", "log_iou"], ...] = ("iou", "giou", "log_iou")


def pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize(
    "name", [n for n in OPS.names("loss.*") if OPS.get(n).target.__module__.startswith("kdflow.ops")]
)
def test_a_smaller_teacher_is_refused_instead_of_broadcast(name: str) -> None:
    op = OPS.get(name)
    if set(op.inputs) != {"student", "teacher"}:
        return
    with pytest.raises(UsageError, match=r"student is \(3, 4\), teacher is \(3, 1\)"):
        op.target(torch.ones(3, 4), torch.ones(3, 1))


def test_doubling_the_difference_quadruples_the_squared_error() -> None:
    s, t = pair(2, 3, 4, 4)
    torch.testing.assert_close(squared_error(t + 2 * (s - t), t), 4 * squared_error(s, t))


def test_smooth_l1_is_a_square_below_beta_and_a_line_above() -> None:
    value = smooth_l1(torch.tensor([0.1, 3.0]), torch.zeros(2), beta=0.5)
    assert value.tolist() == pytest.approx([0.1**2 / (2 * 0.5), 3.0 - 0.25])


def test_kl_finds_the_classes_by_name() -> None:
    s, t = pair(2, 5, 3, 3)
    by_name = kl(s, t, axes=("b", "c", "y", "x"))
    assert by_name.shape == (2, 3, 3)
    torch.testing.assert_close(by_name, kl(s.movedim(1, -1), t.movedim(1, -1)))


def test_kl_is_scaled_by_the_squared_temperature_unless_told_not_to() -> None:
    s, t = pair(6, 5)
    torch.testing.assert_close(kl(s, t, temperature=3.0), 9 * kl(s, t, temperature=3.0, scale="none"))
    assert (kl(s, t) >= 0).all()


def test_unknown_axes_only_allow_the_last() -> None:
    with pytest.raises(UsageError, match="has the axes b, y, x, not c"):
        kl(*pair(2, 3, 3), axes=("b", "y", "x"))


def test_cross_entropy_and_divergence_have_one_gradient() -> None:
    s, t = pair(8)
    gradients = [
        torch.autograd.grad(loss(x := s.clone().requires_grad_(), t, temperature=2.0).sum(), x)[0]
        for loss in (binary_cross_entropy, bernoulli_kl)
    ]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(gradients[0], 2 * (torch.sigmoid(s / 2) - torch.sigmoid(t / 2)))


def test_quality_focal_takes_logits_on_both_sides() -> None:
    s, t = pair(8)
    gap = (torch.sigmoid(s) - torch.sigmoid(t)).abs()
    torch.testing.assert_close(quality_focal(s, t, beta=1.0), binary_cross_entropy(s, t) * gap)


def test_box_losses_fall_from_their_largest_value_to_zero() -> None:
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    shifted = [box + torch.tensor([d, 0.0, d, 0.0]) for d in (0.0, 5.0, 9.0, 500.0)]
    by_iou, by_giou, by_log = ([float(iou(s, box, form)) for s in shifted] for form in FORMS)
    assert by_iou == sorted(by_iou)
    assert by_giou == sorted(by_giou)
    assert by_log == sorted(by_log)
    assert (by_iou[0], by_giou[0], by_log[0]) == (0.0, 0.0, 0.0)
    assert by_iou[-1] == 1
    assert 1.9 < by_giou[-1] < 2.0
    assert by_log[-1] == pytest.approx(13.8155, abs=1e-3)


def test_boxes_may_lie_on_any_axis_called_c() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 3, 3, 2, generator=generator)
    s, t = (torch.cat([corner, corner + 1 + torch.rand(2, 3, 3, 2, generator=generator)], dim=-1) for _ in range(2))
    for form in FORMS:
        on_maps = iou(s.movedim(-1, 1), t.movedim(-1, 1), form, axes=("b", "c", "y", "x"))
        torch.testing.assert_close(on_maps, iou(s, t, form))


def test_cosine_sees_angles_only() -> None:
    s, t = pair(6, 5)
    torch.testing.assert_close(cosine(3 * s, t / 7), cosine(s, t))
    torch.testing.assert_close(cosine(s, -s), torch.full((6,), 2.0).double())
    torch.testing.assert_close(cosine(s, t), 1 - torch.cosine_similarity(s, t, dim=-1))
    by_column = cosine(s, t, over=("n",), axes=("n", "c"))
    torch.testing.assert_close(by_column, 1 - torch.cosine_similarity(s, t, dim=0))
    together = cosine(s, t, over=("n", "c"), eps=1e-8, axes=("n", "c"))
    torch.testing.assert_close(together, 1 - torch.cosine_similarity(s.flatten(), t.flatten(), dim=0))
