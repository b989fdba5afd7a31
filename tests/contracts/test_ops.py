"""What every registered op promises; a new op is covered without a test of its own (its formula needs numbers)."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from kdflow import kinds as k
from kdflow.kinds import Kind
from kdflow.operation import OPS, Like, Op
from tests.contracts.examples import (
    BOX_COUNTS,
    Examples,
    free_kinds,
    inputs_of,
    kinds_of,
    options_of,
    prepared,
    tensors_in,
)

NAMES = OPS.names()
CASES = [pytest.param(n, free, id=f"{n}-{free.name}") for n in NAMES for free in free_kinds(OPS.get(n))]
LOSSES = [case for case in CASES if str(case.values[0]).startswith("loss.")]


def evaluate(op: Op, kinds: dict[str, Kind], inputs: dict[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    call = prepared(op, kinds, inputs, dtype)
    torch.manual_seed(1)
    return call(**inputs)


def entries(value: Any, kind: Kind | dict[str, Kind]) -> Iterator[tuple[Tensor, Kind]]:
    """Every tensor of a result with the kind it should have."""
    if isinstance(kind, dict):
        assert set(value) == set(kind)
        for name, part in kind.items():
            yield from entries(value[name], part)
    elif kind.opaque:
        yield from ((tensor, kind) for tensor in tensors_in(value))
    elif kind.stack:
        assert isinstance(value, list)
        yield from ((entry, kind.element()) for entry in value)
    else:
        yield value, kind


def differentiable(inputs: dict[str, Any], op: Op) -> list[Tensor]:
    """Leaves through which gradient is expected: the student's side where the op has one, else the first input."""
    side = next((n for n in inputs if n.startswith("student")), None) or next(iter(inputs), "")
    return [t for t in tensors_in(inputs.get(side)) if t.is_floating_point() and t.numel()]


def scalar(result: Any) -> Tensor:
    parts = [t for t in tensors_in(result) if t.is_floating_point() and t.requires_grad]
    weights = [torch.linspace(0.5, 1.5, t.numel(), dtype=t.dtype).reshape(t.shape) for t in parts]
    return torch.stack([(t * w).sum() for t, w in zip(parts, weights, strict=True)]).sum()


def gradient_ops(op: Op) -> bool:
    return not op.no_grad and not op.observes and bool(op.inputs)


def in_training(op: Op) -> bool:
    """A module that is called at every step, as preparations are not."""
    return op.is_module and not op.observes


def test_the_registry_holds_the_vocabulary() -> None:
    assert {"adapter", "loss", "mask", "stats", "transform", "values"} <= {name.split(".")[0] for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_names_every_input_and_option(name: str) -> None:
    op = OPS.get(name)
    documented = [op.target, op.call, getattr(op.target, "observe", None)]
    text = "\n".join(inspect.getdoc(part) or "" for part in documented if part is not None)
    assert len(op.doc) > 20
    missing = [n for n in (*op.inputs, *op.observes, *op.options.model_fields) if f"{n}:" not in text]
    assert not missing, f"{name}: the docstring does not say what {missing} are"


@pytest.mark.parametrize("name", NAMES)
def test_defaults_and_example_are_valid_options(name: str) -> None:
    op = OPS.get(name)
    assert set(options_of(op)) == set(op.options.model_fields)


@pytest.mark.parametrize("counts", BOX_COUNTS.values(), ids=BOX_COUNTS)
@pytest.mark.parametrize(("name", "free"), CASES)
def test_results_are_finite_and_have_the_declared_kind(name: str, free: Kind, counts: tuple[int, int]) -> None:
    op = OPS.get(name)
    kinds = kinds_of(op, free)
    inputs = inputs_of(op, kinds, Examples(counts))
    result = evaluate(op, kinds, inputs)
    for tensor, kind in entries(result, op.output_kinds(kinds, options_of(op))):
        assert torch.isfinite(tensor.float()).all(), f"{kind} is not finite"
        if kind.axes is not None and not kind.opaque:
            assert tensor.dim() == len(kind.axes), f"{tuple(tensor.shape)} is no {kind}"
            if "b" in kind.axes:
                assert tensor.shape[kind.axes.index("b")] == 2
            if "one" in kind.axes:
                assert tensor.shape[kind.axes.index("one")] == 1


def keeps_axes(rule: object) -> bool:
    """Whether every axis of the result is one of an input, entry by entry."""
    splits = isinstance(rule, Like) and any(" " in names for names in rule.swap.values())
    return isinstance(rule, Like) and rule.stack is None and not rule.joined and not splits


@pytest.mark.parametrize(("name", "free"), [c for c in CASES if keeps_axes(OPS.get(str(c.values[0])).gives)])
def test_a_result_like_an_input_has_its_sizes(name: str, free: Kind) -> None:
    op = OPS.get(name)
    rule = op.gives
    assert isinstance(rule, Like)
    kinds = kinds_of(op, free)
    inputs = inputs_of(op, kinds, Examples())
    axes = kinds[rule.source].element().axes
    if axes is None:
        pytest.fail(f"{name} copies the kind of an input without axes")
    for tensor, source in zip(tensors_in(evaluate(op, kinds, inputs)), tensors_in(inputs[rule.source]), strict=True):
        kept = tuple(size for axis, size in zip(axes, source.shape, strict=True) if axis not in rule.dropped(options_of(op)))
        assert tensor.shape == kept


@pytest.mark.parametrize(("name", "free"), CASES)
def test_inputs_are_left_alone_and_equal_draws_give_equal_results(name: str, free: Kind) -> None:
    op = OPS.get(name)
    kinds = kinds_of(op, free)
    inputs = inputs_of(op, kinds, Examples())
    before = copy.deepcopy(inputs)
    first, second = evaluate(op, kinds, inputs), evaluate(op, kinds, inputs)
    assert all(torch.equal(a, b) for a, b in zip(tensors_in(inputs), tensors_in(before), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(tensors_in(first), tensors_in(second), strict=True))


@pytest.mark.parametrize(("name", "free"), [c for c in CASES if in_training(OPS.get(str(c.values[0])))])
def test_all_that_an_op_remembers_is_in_its_state(name: str, free: Kind) -> None:
    op = OPS.get(name)
    kinds = kinds_of(op, free)
    inputs = inputs_of(op, kinds, Examples())
    used, fresh = (prepared(op, kinds, inputs, torch.float32) for _ in range(2))
    torch.manual_seed(1)
    used(**inputs)
    fresh.func.load_state_dict(used.func.state_dict())
    results = []
    for module in (used, fresh):
        torch.manual_seed(2)
        results.append(tensors_in(module(**inputs)))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize(("name", "free"), CASES)
def test_maps_with_channels_innermost_give_the_same_result(name: str, free: Kind) -> None:
    op = OPS.get(name)
    kinds = kinds_of(op, free)
    inputs = inputs_of(op, kinds, Examples())
    expected = evaluate(op, kinds, inputs)
    for tensor in tensors_in(inputs):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    found = evaluate(op, kinds, inputs)
    for one, other in zip(tensors_in(found), tensors_in(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "free"), [c for c in CASES if gradient_ops(OPS.get(str(c.values[0])))])
def test_gradient_reaches_the_student_alone(name: str, free: Kind) -> None:
    op = OPS.get(name)
    kinds = kinds_of(op, free)
    inputs = inputs_of(op, kinds, Examples())
    leaves = differentiable(inputs, op)
    for leaf in leaves:
        leaf.requires_grad_()
    result = evaluate(op, kinds, inputs)
    scalar(result).backward()
    assert leaves
    for leaf in leaves:
        assert leaf.grad is not None, f"{name} gives no gradient"
        assert torch.isfinite(leaf.grad).all()
    assert any(bool(leaf.grad.abs().sum() > 0) for leaf in leaves if leaf.grad is not None)
    others = [t for t in tensors_in(inputs) if not any(t is leaf for leaf in leaves)]
    assert all(t.grad is None for t in others if t.is_leaf)


@pytest.mark.parametrize(("name", "free"), [c for c in CASES if gradient_ops(OPS.get(str(c.values[0])))])
def test_no_boxes_give_a_finite_gradient(name: str, free: Kind) -> None:
    op = OPS.get(name)
    kinds = kinds_of(op, free)
    inputs = inputs_of(op, kinds, Examples((0, 0)))
    leaves = [t.requires_grad_() for t in tensors_in(inputs) if t.is_floating_point()]
    result = evaluate(op, kinds, inputs)
    connected = [t for t in tensors_in(result) if t.requires_grad]
    if connected:
        torch.stack([t.sum() for t in connected]).sum().backward()
    assert all(torch.isfinite(t.grad).all() for t in leaves if t.grad is not None)


@pytest.mark.parametrize(("name", "free"), [c for c in LOSSES if OPS.get(str(c.values[0])).zero_at_equality])
def test_the_loss_is_zero_where_student_equals_teacher(name: str, free: Kind) -> None:
    op = OPS.get(name)
    kinds = kinds_of(op, free)
    inputs = inputs_of(op, kinds, Examples())
    sides = [n.replace("student", "teacher") for n in inputs if n.startswith("student")]
    inputs |= {n: copy.deepcopy(inputs[n.replace("teacher", "student")]) for n in sides if n in inputs}
    for tensor in tensors_in(evaluate(op, kinds, inputs)):
        torch.testing.assert_close(tensor, torch.zeros_like(tensor), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "free"), LOSSES)
def test_a_loss_keeps_its_elements(name: str, free: Kind) -> None:
    op = OPS.get(name)
    assert {"student", "teacher"} <= set(op.inputs) or any(n.startswith("student") for n in op.inputs)
    kinds = kinds_of(op, free)
    inputs = inputs_of(op, kinds, Examples())
    for tensor, kind in entries(evaluate(op, kinds, inputs), op.output_kinds(kinds, options_of(op))):
        assert kind == k.SCALAR or tensor.dim() > 0


@pytest.mark.parametrize(("name", "free"), [c for c in CASES if gradient_ops(OPS.get(str(c.values[0])))])
def test_gradient_agrees_with_finite_differences(name: str, free: Kind) -> None:
    op = OPS.get(name)
    kinds = kinds_of(op, free)
    inputs = inputs_of(op, kinds, Examples(dtype=torch.float64))
    leaves = differentiable(inputs, op)
    call = prepared(op, kinds, inputs, torch.float64)

    def of_leaves(*values: Tensor) -> Tensor:
        torch.manual_seed(1)
        return scalar(call(**_replaced(inputs, dict(zip(map(id, leaves), values, strict=True)))))

    detached = [leaf.clone().requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(of_leaves, detached, fast_mode=True, eps=1e-6, atol=1e-4, rtol=1e-3)


def _replaced(value: Any, new: dict[int, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return new.get(id(value), value)
    if isinstance(value, dict):
        return {key: _replaced(part, new) for key, part in value.items()}
    return [_replaced(part, new) for part in value] if isinstance(value, list) else value
