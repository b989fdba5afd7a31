"""What torch.compile is given: no graph break in it, no recompile after warm-up, the losses of eager mode."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from kdflow.graph.compile import compile_method
from kdflow.graph.plan import Plan
from kdflow.ports import Batch, Detector
from kdflow.spec.resolve import parse_method
from tests.toy import make_toy

# torch looks at .grad of what it traces, and warns of its own look.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")

METHOD = """\
kdflow: 1
method: test
nodes:
  aligned: {op: adapter.conv, features: student.neck, like: teacher.neck}
  kept: {op: mask.random, like: teacher.neck}
  objects: {op: mask.boxes, like: teacher.neck}
terms:
  neck:
    {loss: loss.squared_error, student: aligned, teacher: teacher.neck, factors: [objects],
     reduce: {over: [objects], floor: 1, levels: sum}}
  kept: {loss: loss.squared_error, student: aligned, teacher: teacher.neck, factors: [kept], reduce: sum_of_means}
  logits: {loss: loss.bernoulli_kl, student: student.head.logits, teacher: teacher.head.logits, rows: [student.assign.positive],
    reduce: sum_of_means}
"""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def detectors() -> dict[str, Detector]:
    torch.manual_seed(2)
    found = {"student": make_toy(), "teacher": make_toy(width=6)}
    for toy in found.values():
        for name in ("backbone", "neck"):
            toy.stages[name] = replace(toy.stages[name], dense=True)
    return found


def plan_of(text: str = METHOD, toys: dict[str, Detector] | None = None) -> Plan:
    spec = parse_method(text, "test.yaml")
    return compile_method(spec.resolve(), spec.document, toys or detectors(), canvas=(16, 16))


def batch(number: int) -> Batch:
    draw = torch.Generator().manual_seed(number)
    boxes = [torch.tensor([[1.0, 1.0, 9.0, 9.0]]).repeat(count, 1) for count in (number % 3, 1)]
    labels = [torch.zeros(len(b), dtype=torch.int64) for b in boxes]
    return Batch(torch.rand(2, 3, 16, 16, generator=draw), [(16, 16)] * 2, boxes, labels)


def test_dense_parts_compile_whole_and_once() -> None:
    plan, eager = plan_of(), plan_of()
    keys = list(plan.state_dict())
    names = plan.compile_dense("aot_eager")
    for step in range(6):
        if step == 2:
            warm = counters["stats"]["unique_graphs"]
        found, expected = (passed(p, step) for p in (plan, eager))
        assert found.keys() == expected.keys()
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    assert {"student:backbone", "student:neck", "teacher:backbone", "teacher:neck", "aligned"} <= set(names)
    assert {"neck.loss", "kd/neck", "kd/kept"} <= set(names)
    assert not {"kept", "student:assign", "student:loss", "kd/logits", "det/loss"} & set(names)
    assert warm > len(names) - 1
    assert counters["stats"]["unique_graphs"] == warm
    assert not counters["graph_break"]
    assert list(plan.state_dict()) == keys


def passed(plan: Plan, step: int) -> dict[str, Any]:
    """Terms and gradients of one step; each term's own gradient is taken first, as the engine does to see that it lives."""
    plan.zero_grad()
    plan.advance(step, 10, 5)
    outcome = plan(batch(step))
    for value in outcome.raw.values():
        torch.autograd.grad(value, list(plan.student.parameters()), retain_graph=True, allow_unused=True)
    outcome.total.backward()
    return {**outcome.raw, **{n: p.grad.clone() for n, p in plan.named_parameters() if p.grad is not None}}


def test_a_stage_with_an_interior_tap_stays_eager() -> None:
    tap = "  first: {loss: loss.squared_error, student: student@neck.0, teacher: teacher@neck.0, reduce: sum_of_means}\n"
    toys = {"student": make_toy(), "teacher": make_toy()}
    for toy in toys.values():
        toy.stages["neck"] = replace(toy.stages["neck"], dense=True)
    plan = plan_of(f"kdflow: 1\nmethod: test\nterms:\n{tap}", copy.deepcopy(toys))
    assert not {"student:neck", "teacher:neck"} & set(plan.compile_dense("aot_eager"))
    assert plan(batch(1)).raw["kd/first"] > 0
