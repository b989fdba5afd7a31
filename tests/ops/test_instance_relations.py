"""Blocks of instances and their relations, down to no instance at all."""

from __future__ import annotations

import pytest
import torch

from kdflow.errors import UsageError
from kdflow.ops.regions.average import average
from kdflow.ops.regions.pool import pool
from kdflow.ops.relations.table import table
from kdflow.ops.values.formula import formula
from kdflow.ops.values.of_level import of_level


@pytest.mark.parametrize(("rows", "pairs"), [(0, 0), (1, 0), (2, 0), (3, 6)])
def test_pairs_count_from_three_rows_on(rows: int, pairs: int) -> None:
    rows_ = torch.rand(rows, 4, generator=torch.Generator().manual_seed(0))
    found = table(rows_, measure="euclidean", normalise="mean", minimum=3)
    assert int(found["pairs"].sum()) == pairs
    assert torch.isfinite(found["values"]).all()


def test_no_instances_keep_a_graph() -> None:
    maps = [torch.rand(2, 3, 8, 8, requires_grad=True)]
    blocks = pool(maps, [torch.zeros(0, 4)] * 2, bins=2, strides=(8,))
    assert blocks.shape == (0, 3, 2, 2)
    (blocks.sum() + table(blocks, measure="euclidean")["values"].sum()).backward()
    assert maps[0].grad is not None
    assert not maps[0].grad.any()


def test_boxes_get_no_gradient() -> None:
    maps, boxes = [torch.rand(1, 3, 8, 8, requires_grad=True)], torch.tensor([[4.0, 4, 40, 40]], requires_grad=True)
    pool(maps, [boxes], bins=2, strides=(8,)).sum().backward()
    average(maps, [boxes], strides=(8,))[0].sum().backward()
    assert boxes.grad is None
    assert maps[0].grad is not None


@pytest.mark.parametrize("op", [pool, average])
def test_unknown_strides_are_named(op: object) -> None:
    with pytest.raises(UsageError, match="stride of each of the 1 levels"):
        op([torch.rand(1, 1, 4, 4)], [torch.zeros(0, 4)])  # type: ignore[operator]


def test_every_row_takes_the_value_of_its_level() -> None:
    values = [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 20.0, 30.0])]
    assert of_level(values, torch.tensor([1, 0, 1])).tolist() == [10, 2, 30]


def test_a_product_needs_one_weight_per_row() -> None:
    assert torch.equal(formula(torch.ones(2, 3), "a * b", torch.tensor([2.0, 0.0])), torch.tensor([[2.0] * 3, [0.0] * 3]))
    with pytest.raises(UsageError, match="leading axes"):
        formula(torch.ones(2, 3), "a * b", torch.ones(3))


def test_tables_against_other_rows_count_every_pair() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, others = torch.rand(2, 4, generator=generator), torch.rand(3, 4, generator=generator)
    for measure in ("cosine", "euclidean"):
        found = table(ours, others, measure=measure)  # type: ignore[arg-type]
        assert torch.equal(found["pairs"], torch.ones(2, 3))
    torch.testing.assert_close(table(ours, others, measure="euclidean")["values"], torch.cdist(ours, others))
    torch.testing.assert_close(table(ours)["values"].diagonal(), torch.ones(2))


def test_overlaps_are_those_of_boxes() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [20, 20, 30, 30]])
    found = table(boxes, measure="iou")["values"]
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    with pytest.raises(UsageError, match="rows have 3"):
        table(torch.ones(2, 3), measure="iou")


def test_autocast_does_not_coarsen_tables_and_averages() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4, 64, generator=generator)
    maps, boxes = [torch.randn(1, 64, 8, 8, generator=generator)], [torch.tensor([[3.0, 5, 47, 61]])]
    exact = table(rows, measure="euclidean")["values"], average(maps, boxes, strides=(8,))[0]
    with torch.autocast("cpu", torch.bfloat16):
        lowered = table(rows, measure="euclidean")["values"], average(maps, boxes, strides=(8,))[0]
    assert all(torch.equal(a, b) for a, b in zip(exact, lowered, strict=True))
