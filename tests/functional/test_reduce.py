"""Reductions: axes by name, divisors that are stated, empty groups that give 0."""

from __future__ import annotations

import pytest
import torch

from kdflow.errors import UsageError
from kdflow.functional.reduce import Named, align, quotient, safe_root, total, weigh
from kdflow.graph.term_call import TermCall
from kdflow.kinds import BOXES, CELLS, LEVEL_ROWS, MAP, MASK, MASKS, PYRAMID, ROW_VALUES, ROWS, SCALAR
from kdflow.spec.method import Reduce

MAPS = ("b", "c", "y", "x")


def test_factor_meets_its_axes_by_name_and_never_by_position() -> None:
    per_image, element = Named(torch.tensor([1.0, 2.0]), ("b",)), torch.ones(2, 2, 2, 2)
    value, _ = weigh(Named(element, MAPS), [per_image], [])
    assert value[0].unique().tolist() == [1.0]
    assert value[1].unique().tolist() == [2.0]
    turned = Named(torch.arange(6.0).view(3, 2), ("c", "b"))
    assert align(turned, MAPS).shape == (2, 3, 1, 1)
    assert align(turned, MAPS)[1, 2] == turned.tensor[2, 1]


def test_mask_axis_of_size_one_stands_for_channels_and_vanishes_where_there_are_none() -> None:
    mask = Named(torch.ones(2, 1, 4, 4), ("b", "one", "y", "x"))
    assert align(mask, MAPS).shape == (2, 1, 4, 4)
    assert align(mask, ("b", "y", "x")).shape == (2, 4, 4)


def test_factor_with_an_axis_that_the_loss_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="q"):
        align(Named(torch.ones(2, 3), ("b", "q")), MAPS)


def test_values_outside_the_rows_give_no_gradient_even_when_they_are_not_finite() -> None:
    logits = torch.tensor([[1.0], [float("nan")]], requires_grad=True)
    value, selected = weigh(Named(logits.square(), ("n", "c")), [], [Named(torch.tensor([True, False]), ("n",))])
    value.sum().backward()
    assert selected is not None
    assert value.tolist() == [[1.0], [0.0]]
    assert logits.grad is not None
    assert logits.grad[0].item() == 2.0


def test_axes_that_are_not_summed_are_averaged() -> None:
    value = torch.arange(24.0).view(2, 3, 2, 2)
    assert total(value, MAPS, summed=None, root=(), keep_images=False) == value.sum()
    summed = total(value, MAPS, summed=("c",), root=(), keep_images=False)
    torch.testing.assert_close(summed, value.sum(1).mean())
    torch.testing.assert_close(total(value, MAPS, summed=None, root=(), keep_images=True), value.flatten(1).sum(1))


def test_root_takes_a_norm_whose_gradient_at_zero_is_zero() -> None:
    value = torch.zeros(1, 2, 1, 1, requires_grad=True)
    norm = total(value, MAPS, summed=None, root=("c",), keep_images=False)
    norm.backward()
    assert norm == 0
    assert value.grad is not None
    assert value.grad.abs().max() == 0
    assert safe_root(torch.tensor(9.0)) == 3


@pytest.mark.parametrize("floor", [None, 1.0])
def test_empty_group_gives_zero_with_a_finite_gradient(floor: float | None) -> None:
    numerator = torch.zeros((), requires_grad=True)
    result = quotient(numerator, torch.zeros(()), floor)
    result.backward()
    assert result == 0
    assert numerator.grad is not None
    assert torch.isfinite(numerator.grad)


def maps(*sizes: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.rand(2, 3, s, s) for s in sizes]


def test_divisor_multiplies_numbers_axes_and_mask_sums_per_level() -> None:
    values, masks = maps(4, 2), [(torch.rand(2, 1, s, s) > 0.5).float() for s in (4, 2)]
    term = TermCall("t", Reduce(over=(2, "c", "mask"), floor=1, levels="mean"), PYRAMID, PYRAMID, [MASKS], [], [MASKS])
    result, alive = term(values, values, [masks], [], [masks])
    expected = sum((v * m).sum() / max(1, 2 * 3 * m.sum()) for v, m in zip(values, masks)) / 2
    torch.testing.assert_close(result, expected)
    assert alive


def test_pooled_levels_divide_once() -> None:
    values, masks = maps(4, 2), [(torch.rand(2, 1, s, s) > 0.5).float() for s in (4, 2)]
    term = TermCall("t", Reduce(over=("mask",), levels="pooled"), PYRAMID, PYRAMID, [MASKS], [], [MASKS])
    result, _ = term(values, values, [masks], [], [masks])
    expected = sum((v * m).sum() for v, m in zip(values, masks)) / sum(m.sum() for m in masks)
    torch.testing.assert_close(result, expected)


def test_scope_image_gives_one_quotient_per_image() -> None:
    value, mask = maps(4)[0], torch.zeros(2, 1, 4, 4)
    mask[0, :, :2], mask[1, :, :1] = 1, 1
    term = TermCall("t", Reduce(over=("mask",), scope="image"), MAP, MAP, [MASK], [], [MASK])
    result, _ = term(value, value, [mask], [], [mask])
    torch.testing.assert_close(result, ((value * mask).flatten(1).sum(1) / mask.flatten(1).sum(1)).mean())


def test_rows_count_what_was_selected() -> None:
    value, keep = torch.rand(5, 3), torch.tensor([True, False, True, True, False])
    term = TermCall("t", Reduce(over=("rows",)), ROWS, ROWS, [], [ROW_VALUES], [])
    torch.testing.assert_close(term(value, value, [], [keep], [])[0], value[keep].sum() / 3)
    nothing, alive = term(value, value, [], [torch.zeros(5, dtype=torch.bool)], [])
    assert nothing == 0
    assert not alive


def test_elements_and_axis_sizes_come_from_the_students_tensor() -> None:
    student, dropped = torch.rand(2, 6, 4), torch.rand(2, 6)
    kind = CELLS.without("c")
    term = TermCall("t", Reduce(over=("r", "c")), kind, CELLS, [], [], [])
    torch.testing.assert_close(term(dropped, student)[0], dropped.sum() / (6 * 4))
    mean = TermCall("t", Reduce(over=("elements",)), kind, CELLS, [], [], [])
    torch.testing.assert_close(mean(dropped, student)[0], dropped.mean())


def test_scalar_nodes_divide_the_whole() -> None:
    term = TermCall("t", Reduce(over=("count",)), MAP, MAP, [], [], [SCALAR])
    value = maps(4)[0]
    torch.testing.assert_close(term(value, value, [], [], [torch.tensor(7.0)])[0], value.sum() / 7)


COUNTS = (2, 0, 3)
IMAGES = [torch.zeros(n, 4) for n in COUNTS]


def rows_of_each(value: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(part for part, count in zip(value.split(COUNTS), COUNTS) if count)


def test_rows_are_reduced_image_by_image_where_their_boxes_are_known() -> None:
    value, keep, weights = torch.rand(5, 3), torch.tensor([True, False, True, True, False]), torch.rand(5)
    reduce, one = Reduce(over=("rows", "w"), floor=0.5, scope="image"), [ROW_VALUES]
    term = TermCall("t", reduce, ROWS, ROWS, one, one, one)
    result, alive = term(value, value, [weights], [keep], [weights], IMAGES)
    each = zip(rows_of_each(value * weights[:, None] * keep[:, None]), rows_of_each(keep), rows_of_each(weights))
    torch.testing.assert_close(result, sum(v.sum() / max(0.5, k.sum() * w.sum()) for v, k, w in each) / 3)
    assert alive


def test_norms_of_images_are_summed_over_images_and_levels() -> None:
    values = [torch.rand(5, requires_grad=True), torch.rand(5, requires_grad=True)]
    term = TermCall("t", Reduce(root=("n",), scope="image", images="sum", levels="sum"), LEVEL_ROWS, LEVEL_ROWS, [], [], [])
    result, _ = term(values, values, [], [], [], IMAGES)
    torch.testing.assert_close(result, sum(part.sum().sqrt() for value in values for part in rows_of_each(value)))
    assert all(torch.isfinite(grad).all() for grad in torch.autograd.grad(result, values))


def test_boxes_as_a_divisor_are_counted() -> None:
    value, rows = torch.rand(3, 6, 4), torch.rand(5, 3)
    batch = TermCall("t", Reduce(over=("objects",)), CELLS, CELLS, [], [], [BOXES])
    torch.testing.assert_close(batch(value, value, [], [], [IMAGES])[0], value.sum() / 5)
    image = TermCall("t", Reduce(over=("objects",), scope="image"), CELLS, CELLS, [], [], [BOXES])
    torch.testing.assert_close(image(value, value, [], [], [IMAGES])[0], (value[0].sum() / 2 + value[2].sum() / 3) / 3)
    of_rows = TermCall("t", Reduce(over=("objects",), scope="image", levels="pooled"), ROWS, ROWS, [], [], [BOXES])
    first, last = rows_of_each(rows)
    torch.testing.assert_close(of_rows(rows, rows, [], [], [IMAGES], IMAGES)[0], (first.sum() / 2 + last.sum() / 3) / 3)
    nothing, alive = batch(value, value, [], [], [[torch.zeros(0, 4)] * 3])
    assert nothing == 0
    assert not alive


@pytest.mark.parametrize(("count", "divisor"), [(1.0, 3), (7.0, 7)])
def test_a_floor_may_be_the_number_of_images(count: float, divisor: int) -> None:
    value, rows = torch.rand(3, 6, 4), torch.rand(5, 3)
    reduce = Reduce(over=("count",), floor="b")
    term = TermCall("t", reduce, CELLS, CELLS, [], [], [SCALAR])
    torch.testing.assert_close(term(value, value, [], [], [torch.tensor(count)])[0], value.sum() / divisor)
    term = TermCall("t", reduce, ROWS, ROWS, [], [], [SCALAR])
    torch.testing.assert_close(term(rows, rows, [], [], [torch.tensor(count)], IMAGES)[0], rows.sum() / divisor)


def test_rows_of_other_boxes_are_refused() -> None:
    term = TermCall("t", Reduce(scope="image"), ROWS, ROWS, [], [], [])
    with pytest.raises(UsageError, match="4 rows and 5 boxes"):
        term(torch.rand(4, 3), None, [], [], [], IMAGES)


def test_what_is_local_to_an_image_is_not_averaged_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdflow.graph.term_call.mean_over_ranks", lambda count: count + 1)
    value, mask = maps(4)[0], torch.ones(2, 1, 4, 4)
    image = TermCall("t", Reduce(over=("mask",), scope="image"), MAP, MAP, [], [], [MASK])
    torch.testing.assert_close(image(value, value, [], [], [mask])[0], value.sum() / 16 / 2)
    batch = TermCall("t", Reduce(over=("mask",)), MAP, MAP, [], [], [MASK])
    torch.testing.assert_close(batch(value, value, [], [], [mask])[0], value.sum() / 33)
