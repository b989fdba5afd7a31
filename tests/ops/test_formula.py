from __future__ import annotations

import pytest
import torch

from kdflow.errors import UsageError
from kdflow.functional.formula import parse
from kdflow.operation import OPS
from kdflow.ops.values.formula import formula


def rows(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("abs(a - b) ** 2", lambda a, b: (a - b).square()),
        ("-a + 2 * (b - 1)", lambda a, b: -a + 2 * b - 2),
        ("max(a, b) - min(a, 0.5)", lambda a, b: torch.maximum(a, b) - a.clamp(max=0.5)),
        ("exp(a) / (1 + exp(a))", lambda a, b: a.sigmoid()),
        ("3", lambda a, b: torch.full_like(a, 3.0)),
    ],
)
def test_formulas_are_computed(text: str, wanted: object) -> None:
    a, b = rows(), rows(1)
    torch.testing.assert_close(formula(a, text, b), wanted(a, b))  # type: ignore[operator]


def test_numbers_per_row_and_single_numbers_meet_a_table() -> None:
    a = rows()
    result = formula(a, "a * b + c", torch.tensor([1.0, 2.0, 3.0]), torch.tensor(5.0))
    torch.testing.assert_close(result, a * torch.tensor([[1.0], [2.0], [3.0]]) + 5)


def test_roots_and_quotients_of_zero_have_finite_gradients() -> None:
    a = torch.tensor([0.0, 4.0], requires_grad=True)
    (grad,) = torch.autograd.grad(formula(a, "sqrt(a) + 1 / a").sum(), a)
    torch.testing.assert_close(grad, torch.tensor([0.0, 0.25 - 1 / 16]))


def test_gradient_flows_unless_told() -> None:
    a = rows().requires_grad_()
    assert formula(a, "1 - abs(a - b)", a * 2).requires_grad
    assert not formula(a, "1 - abs(a - b)", a * 2, detach=True).requires_grad


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a +", "is no formula"),
        ("x + 1", 'names "x"'),
        ("sin(a)", 'calls "sin"'),
        ("min(a)", "takes 2 values, not 1"),
        ("abs(a, b)", "takes 1 value, not 2"),
        ("a.grad", "more than arithmetic"),
        ("a if b else c", "more than arithmetic"),
        ("__import__('os').getcwd()", "more than arithmetic"),
        ("[a, b]", "more than arithmetic"),
        ("a > b", "more than arithmetic"),
        ("True", "more than arithmetic"),
        ("a" + "+a" * 200, "at most 200 characters"),
    ],
)
def test_what_is_no_arithmetic_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse(text)
    with pytest.raises(ValueError, match=words):
        OPS.get("values.formula").options(formula=text)


def test_values_that_are_missing_or_of_another_shape_are_named() -> None:
    with pytest.raises(UsageError, match="needs b, d"):
        formula(rows(), "a + b * d", c=rows())
    with pytest.raises(UsageError, match="b is"):
        formula(rows(), "a + b", torch.zeros(4))
