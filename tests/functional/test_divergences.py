from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from kdflow.functional import divergences as dv


def logits(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_kl_agrees_with_torch_in_both_directions() -> None:
    s, t = logits(0, 6, 5), logits(1, 6, 5)
    forward = functional.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="none").sum(-1)
    backward = functional.kl_div(t.log_softmax(-1), s.softmax(-1), reduction="none").sum(-1)
    torch.testing.assert_close(dv.kl_divergence(s, t), forward)
    torch.testing.assert_close(dv.kl_divergence(s, t, direction="reverse"), backward)


def test_a_constant_on_all_classes_changes_the_softmax_form_in_nothing() -> None:
    s, t = logits(0, 6, 5), logits(1, 6, 5)
    torch.testing.assert_close(dv.kl_divergence(s + 3, t - 2), dv.kl_divergence(s, t))
    assert not torch.allclose(dv.bernoulli_kl(s + 3, t), dv.bernoulli_kl(s, t))


def test_the_gradient_of_a_row_is_the_difference_of_probabilities() -> None:
    s, t, T = logits(0, 6, 5).requires_grad_(), logits(1, 6, 5), 3.0
    (gradient,) = torch.autograd.grad(T**2 * dv.kl_divergence(s, t, temperature=T).sum(), s)
    torch.testing.assert_close(gradient, T * ((s / T).softmax(-1) - (t / T).softmax(-1)))


def test_a_high_temperature_compares_centred_logits() -> None:
    s, t, T = logits(0, 6, 5), logits(1, 6, 5), 1e4
    difference = (s - t) - (s - t).mean(-1, keepdim=True)
    limit = difference.square().sum(-1) / (2 * 5)
    torch.testing.assert_close(T**2 * dv.kl_divergence(s, t, temperature=T), limit, atol=1e-3, rtol=1e-3)


def test_bernoulli_kl_is_the_cross_entropy_minus_its_smallest_value() -> None:
    s, t = logits(0, 30), logits(1, 30)
    target = torch.sigmoid(t)
    expected = dv.soft_cross_entropy(s, target) - dv.soft_cross_entropy(t, target)
    torch.testing.assert_close(dv.bernoulli_kl(s, t), expected)
    assert (dv.bernoulli_kl(s, t) >= 0).all()


def test_bernoulli_kl_survives_extreme_logits() -> None:
    s = torch.tensor([-80.0, 80.0, 0.0], requires_grad=True)
    value = dv.bernoulli_kl(s, torch.tensor([80.0, -80.0, 90.0]))
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(s.grad).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_quality_focal_is_zero_only_at_the_target(beta: float) -> None:
    s = torch.tensor([-1.0, 0.3, 2.0], dtype=torch.float64, requires_grad=True)
    value = dv.quality_focal(s, torch.sigmoid(s.detach()), beta)
    value.sum().backward()
    assert value.abs().max() == 0
    assert torch.isfinite(s.grad).all()  # type: ignore[arg-type]
    assert (dv.quality_focal(s, torch.sigmoid(s.detach() + 0.1), beta) > 0).all()


def test_quality_focal_without_exponent_is_the_cross_entropy() -> None:
    s, target = logits(0, 9), torch.sigmoid(logits(1, 9))
    torch.testing.assert_close(dv.quality_focal(s, target, 0.0), dv.soft_cross_entropy(s, target))


def test_the_focal_factor_is_not_detached() -> None:
    s, target = logits(0, 9).requires_grad_(), torch.sigmoid(logits(1, 9))
    assert torch.autograd.gradcheck(lambda x: dv.quality_focal(x, target, 2.0), [s])
