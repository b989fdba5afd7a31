"""Softmax, divergence and reductions inside of groups of entries."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from kdflow.errors import UsageError
from kdflow.functional.groups import How
from kdflow.kinds import CELL_VALUES, CELLS, of_axes
from kdflow.operation import OPS
from kdflow.ops.losses.kl import kl
from kdflow.ops.regions.image_of import image_of
from kdflow.ops.transforms.reduce import reduce
from kdflow.ops.transforms.softmax import softmax

CELL_AXES = ("b", "r", "c")
NUMBERS = torch.tensor([[90, 3, 90, -1, 3], [3, 3, -2, 90, 7]])
PARTS = [[(0, [0, 2]), (0, [1, 4])], [(1, [0, 1]), (1, [3]), (1, [4])]]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_each_group_is_a_softmax_of_its_own() -> None:
    logits = drawn(2, 5, 3).requires_grad_()
    shares = softmax(logits, NUMBERS, over=("r",), temperature=0.5, axes=CELL_AXES)
    wanted = torch.zeros_like(shares)
    for image, places in (part for parts in PARTS for part in parts):
        wanted[image, places] = (logits[image, places] / 0.5).softmax(0)
    torch.testing.assert_close(shares, wanted)
    assert torch.isfinite(torch.autograd.grad(shares.square().sum(), logits)[0]).all()


@pytest.mark.parametrize("over", [("r",), ("r", "c")])
def test_one_group_for_all_of_an_image_is_the_plain_form(over: Sequence[str]) -> None:
    student, teacher, groups = drawn(2, 5, 3), drawn(2, 5, 3, seed=1), torch.full((2, 5), 8)
    given = {"over": tuple(over), "axes": CELL_AXES}
    torch.testing.assert_close(softmax(student, groups, **given), softmax(student, **given))
    dims = tuple(CELL_AXES.index(axis) for axis in over)
    parts = kl(student, teacher, groups, temperature=2.0, direction="reverse", **given)
    torch.testing.assert_close(parts.sum(dims), kl(student, teacher, temperature=2.0, direction="reverse", **given))


@pytest.mark.parametrize("how", ["sum", "mean", "max", "min", "norm"])
def test_every_entry_is_given_the_number_of_its_group(how: How) -> None:
    values = drawn(2, 5, 3)
    result = reduce(values, ("r",), how, NUMBERS, axes=CELL_AXES)
    wanted = torch.zeros_like(values)
    for image, places in (part for parts in PARTS for part in parts):
        wanted[image, places] = reduce(values[image, places], ("n",), how, axes=("n", "c"))
    torch.testing.assert_close(result, wanted)


def test_rows_of_a_group_may_be_of_several_images_and_axes_beside_it_join_in() -> None:
    rows, groups = drawn(4, 3), torch.tensor([5, -1, 5, 0])
    joined = reduce(rows, ("n", "c"), "sum", groups, axes=("n", "c"))
    assert joined.shape == (4, 3)
    first, last = rows[[0, 2]].sum(), rows[3].sum()
    torch.testing.assert_close(joined[:, 0], torch.stack([first, torch.zeros_like(first), first, last]))


def test_nothing_has_no_groups() -> None:
    nothing, groups, axes = torch.zeros(0, 3, requires_grad=True), torch.zeros(0), ("n", "c")
    assert softmax(nothing, groups, over=("n",), axes=axes).shape == (0, 3)
    assert reduce(nothing, ("n",), "max", groups, axes=axes).shape == (0, 3)


def test_numbers_must_fit_what_they_number() -> None:
    with pytest.raises(UsageError, match="one number for each entry of the leading axes"):
        softmax(drawn(2, 5, 3), NUMBERS[:, :3], over=("r",), axes=CELL_AXES)
    with pytest.raises(UsageError, match=r"as in over: \[n\] for rows"):
        softmax(drawn(2, 5, 3), NUMBERS, axes=CELL_AXES)


def test_a_group_keeps_the_axes_that_a_distribution_uses_up() -> None:
    op, options = OPS.get("loss.kl"), {"over": ("r",)}
    assert op.output_kinds({"student": CELLS, "teacher": CELLS}, options) == of_axes(("b", "c"), None)
    assert op.output_kinds({"student": CELLS, "teacher": CELLS, "groups": CELL_VALUES}, options) == CELLS


def test_a_divergence_of_places_ignores_a_constant_per_channel() -> None:
    features, axes = drawn(2, 3, 4, 4), ("b", "c", "y", "x")
    shifted = features + torch.tensor([1.0, -2.0, 5.0])[:, None, None]
    assert float(kl(shifted, features, over=("y", "x"), temperature=2.0, axes=axes).abs().max()) < 1e-5
    assert (kl(drawn(2, 3, 4, 4, seed=1), features, over=("y", "x"), axes=axes) > 0).all()


def test_rows_of_an_image_are_a_group() -> None:
    image = image_of([torch.zeros(2, 4), torch.zeros(0, 4), torch.zeros(1, 4)])
    assert image.tolist() == [0, 0, 2]
    positive = torch.tensor([True, True, True])
    assert reduce(positive, ("n",), "sum", image, axes=("n",)).tolist() == [2, 2, 1]
