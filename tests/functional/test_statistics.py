from __future__ import annotations

import pytest
import torch

from kdflow.functional import statistics as st


def maps(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3 + 1


def pearson(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    flat = [m.transpose(0, 1).flatten(1) for m in (a, b)]
    return torch.stack([torch.corrcoef(torch.stack([x, y]))[0, 1] for x, y in zip(*flat, strict=True)])


def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return 0.5 * (st.standardize(a) - st.standardize(b)).square().mean()


def test_standardised_distance_is_one_minus_the_correlation() -> None:
    a, b = maps(0, 2, 3, 6, 5), maps(1, 2, 3, 6, 5)
    m = 2 * 6 * 5
    expected = (m - 1) / m * (1 - pearson(a, b).mean())
    assert distance(a, b).item() == pytest.approx(expected.item(), abs=1e-5)
    assert distance(a, -a).item() == pytest.approx(2 * (m - 1) / m, abs=1e-5)


def test_a_positive_affine_change_per_channel_is_not_seen() -> None:
    a = maps(0, 2, 3, 6, 5)
    scale, shift = torch.tensor([0.5, 2.0, 7.0]).double(), torch.tensor([-3.0, 0.0, 9.0]).double()
    assert distance(a, a * scale[:, None, None] + shift[:, None, None]).item() < 1e-10


def test_the_gradient_through_the_moments_is_orthogonal_to_the_map() -> None:
    a, b = maps(0, 2, 3, 6, 5).requires_grad_(), maps(1, 2, 3, 6, 5)
    (gradient,) = torch.autograd.grad(distance(a, b), a)
    centred = (a - a.mean((0, 2, 3), keepdim=True)).detach()
    assert gradient.sum((0, 2, 3)).abs().max() < 1e-9
    assert (gradient * centred).sum((0, 2, 3)).abs().max() < 1e-5


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 3, 4, 4)])
def test_constant_maps_and_single_samples_give_zero_and_a_finite_gradient(shape: tuple[int, ...]) -> None:
    a = torch.full(shape, 5.0, requires_grad=True)
    value = st.standardize(a)
    value.sum().backward()
    assert value.abs().max() == 0
    assert torch.isfinite(a.grad).all()  # type: ignore[arg-type]


def test_matched_maps_have_the_moments_of_the_other() -> None:
    a, b = maps(0, 2, 3, 6, 5), maps(1, 2, 3, 6, 5) * 4 - 2
    matched = st.match_statistics(a, b)
    for ours, theirs in zip(st.mean_and_std(matched, (0, 2, 3)), st.mean_and_std(b, (0, 2, 3)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(st.match_statistics(b, b), b, atol=1e-5, rtol=1e-5)


def test_one_sample_takes_the_value_of_the_other() -> None:
    a, b = maps(0, 1, 3, 1, 1), maps(1, 1, 3, 1, 1)
    torch.testing.assert_close(st.match_statistics(a, b), b)


def test_the_deviation_divides_by_one_less_than_the_count() -> None:
    a = maps(0, 2, 3, 6, 5)
    torch.testing.assert_close(st.mean_and_std(a, (0, 2, 3))[1], a.std((0, 2, 3), keepdim=True))


def test_unit_vectors_have_length_one_and_zero_stays_zero() -> None:
    a = torch.cat([maps(0, 2, 3, 2, 2), torch.zeros(1, 3, 2, 2).double()]).requires_grad_()
    lengths = st.unit(a, (1, 2, 3)).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.tensor([1.0, 1.0, 0.0]).double())
    lengths.sum().backward()
    assert torch.isfinite(a.grad).all()  # type: ignore[arg-type]
    torch.testing.assert_close(st.unit(a * 1e3, (1, 2, 3)), st.unit(a, (1, 2, 3)))
