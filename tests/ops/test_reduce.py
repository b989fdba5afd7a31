from __future__ import annotations

import pytest
import torch

from kdflow.errors import UsageError
from kdflow.kinds import CELL_VALUES, CELLS, IMAGE_VALUES, MAP
from kdflow.operation import OPS
from kdflow.ops.transforms.reduce import reduce

AXES = ("b", "c", "y", "x")


def features() -> torch.Tensor:
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))


def test_axes_are_used_up_by_name() -> None:
    values = features()
    torch.testing.assert_close(reduce(values, ("c",), axes=AXES), values.mean(1))
    torch.testing.assert_close(reduce(values, ("y", "x"), "sum", axes=AXES), values.sum((2, 3)))
    torch.testing.assert_close(reduce(values, ("x", "c"), "max", axes=AXES), values.amax((1, 3)))
    torch.testing.assert_close(reduce(values, ("y",), "min", axes=AXES), values.amin(2))
    torch.testing.assert_close(reduce(values, ("c", "y", "x"), "norm", axes=AXES), values.flatten(1).norm(dim=1))


def test_the_kind_of_the_result_follows_from_the_axes() -> None:
    op = OPS.get("transform.reduce")
    assert op.output_kinds({"features": MAP}, {"over": ("c", "y", "x")}) == IMAGE_VALUES
    assert op.output_kinds({"features": CELLS}, {"over": ("c",)}) == CELL_VALUES


def test_the_norm_of_nothing_has_a_gradient_of_zero() -> None:
    zeros = torch.zeros(2, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(reduce(zeros, ("c",), "norm").sum(), zeros)
    assert not grad.any()


def test_the_mean_of_no_rows_is_zero() -> None:
    assert float(reduce(torch.zeros(0, 3), ("n", "c"), axes=("n", "c"))) == 0


def test_axes_that_are_not_there_are_named() -> None:
    with pytest.raises(UsageError, match="not q"):
        reduce(features(), ("q",), axes=AXES)
