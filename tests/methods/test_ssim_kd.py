"""Properties of SSIM-KD."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdflow.errors import UsageError
from kdflow.ops.losses.ssim import ssim
from kdflow.ops.transforms import min_max as transform
from tests.methods.shipped import maps, plan_of, terms_of

SHAPES = ((2, 4, 14, 16), (2, 4, 5, 3))


def min_max(features: Tensor) -> Tensor:
    return transform.min_max(features, axes=("b", "c", "y", "x"))


def term(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    given = {"student.neck": ours, "teacher.neck": theirs}
    return terms_of(plan_of("ssim-kd", given, family="dense", changes={"nodes.aligned.init": "identity"}), "neck")[0]


def test_equality_and_any_brighter_or_sharper_copy_give_zero() -> None:
    theirs = maps(*SHAPES)
    assert float(term(maps(*SHAPES), theirs).detach()) == pytest.approx(0, abs=1e-5)
    assert float(term([3 * m + 2 for m in theirs], theirs).detach()) == pytest.approx(0, abs=1e-4)


def test_each_level_lies_in_0_to_1_and_the_opposite_is_far_away() -> None:
    ours, theirs = maps(*SHAPES, grad=True), maps(*SHAPES, seed=1)
    assert 0 < float(term(ours, theirs).detach()) < len(SHAPES)
    assert float(term([-m for m in theirs], theirs).detach()) > 0.5 * len(SHAPES)


def test_it_is_symmetric() -> None:
    (a,), (b,) = maps(SHAPES[0]), maps(SHAPES[0], seed=1)
    torch.testing.assert_close(ssim(min_max(a), min_max(b)), ssim(min_max(b), min_max(a)))


def test_luminance_contrast_and_structure_multiply_to_it() -> None:
    (a,), (b,) = (maps((1, 1, 3, 3), seed=seed) for seed in (0, 1))
    a, b = min_max(a).double(), min_max(b).double()
    value = 1 - 2 * ssim(a, b, window=3, sigma=1e6, border="cut")  # so wide that all nine cells weigh alike
    spreads = [t.var(unbiased=False) for t in (a, b)]
    shared = (a * b).mean() - a.mean() * b.mean()
    first, second = 0.01**2, 0.03**2
    luminance = (2 * a.mean() * b.mean() + first) / (a.mean() ** 2 + b.mean() ** 2 + first)
    product = spreads[0].sqrt() * spreads[1].sqrt()
    contrast = (2 * product + second) / (sum(spreads) + second)
    structure = (shared + second / 2) / (product + second / 2)
    torch.testing.assert_close(value.reshape(()), luminance * contrast * structure, rtol=1e-5, atol=1e-6)


def test_a_dead_map_and_a_single_cell_give_finite_numbers_and_gradients() -> None:
    for shape in ((2, 3, 6, 6), (1, 2, 1, 1)):
        ours = torch.full(shape, 0.5, requires_grad=True)
        loss = ssim(min_max(ours), min_max(torch.randn(shape))).mean()
        (grad,) = torch.autograd.grad(loss, ours)
        assert torch.isfinite(loss)
        assert torch.isfinite(grad).all()


def test_windows_without_a_middle_or_without_room_are_refused() -> None:
    (a,) = maps((1, 2, 6, 6))
    with pytest.raises(UsageError, match="has no middle"):
        ssim(a, a, window=4)
    with pytest.raises(UsageError, match="take border: mirror"):
        ssim(a, a, border="cut")
