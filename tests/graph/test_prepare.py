"""``prepare:``: work over the data before training, whose result is read like a node and kept with the plan's weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdflow.errors import SpecError
from kdflow.graph.compile import compile_method
from kdflow.graph.plan import Plan
from kdflow.kinds import MAP, Map
from kdflow.operation import OPS, op
from kdflow.ports import Batch
from kdflow.spec.resolve import parse_method
from tests.toy import toys

NAME = "prepare.mean_map_of_a_test"
TEXT = f"""
kdflow: 1
method: test
prepare:
  usual: {{op: {NAME}, features: "teacher.neck[0]", every: epoch, batches: 2}}
terms:
  typical: {{loss: loss.squared_error, student: "student.neck[0]", teacher: usual, weight: 2}}
"""


class MeanMap(nn.Module):
    """Mean of all maps that were observed."""

    mean: Tensor

    def build(self, features: Map) -> None:
        self.register_buffer("mean", torch.zeros(2, *features.shape[1:]))

    def begin(self) -> None:
        self.seen: list[Tensor] = []

    def observe(self, features: Map) -> None:
        assert not torch.is_grad_enabled()
        self.seen.append(features)

    def finish(self) -> None:
        self.mean.copy_(torch.stack(self.seen).mean(0))

    def forward(self) -> Map:
        return self.mean


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The op exists for these tests alone."""
    OPS.load()
    monkeypatch.setattr(OPS, "_parts", dict(OPS._parts))
    op(NAME, gives=MAP)(MeanMap)


def plan_of(text: str = TEXT) -> Plan:
    spec = parse_method(text, "test.yaml")
    return compile_method(spec.resolve(), spec.document, toys(), canvas=(16, 16))


def batches(count: int) -> list[Batch]:
    torch.manual_seed(1)
    box = torch.tensor([[1.0, 1.0, 9.0, 9.0]])
    labels = [torch.zeros(1).long()] * 2
    return [Batch(torch.rand(2, 3, 16, 16), [(16, 16)] * 2, [box, box], labels) for _ in range(count)]


def prepared(plan: Plan, data: list[Batch]) -> Any:
    (preparation,) = plan.preparations
    preparation.run(plan, data)
    return plan.ops["usual"].mean


def test_it_observes_in_evaluation_mode_and_as_many_batches_as_it_asks_for() -> None:
    plan, data = plan_of(), batches(4)
    (preparation,) = plan.preparations
    assert (preparation.name, preparation.every, preparation.batches) == ("usual", "epoch", 2)
    found = prepared(plan, data)
    teacher = plan.teachers["teacher"]
    with torch.no_grad():
        expected = torch.stack([teacher.neck[0](teacher.backbone(b.images)) for b in data[:2]]).mean(0)
    torch.testing.assert_close(found, expected)
    assert plan.training


def test_the_result_stands_where_a_node_would_and_its_sources_do_not_run_in_training() -> None:
    plan, data = plan_of(), batches(3)
    found = prepared(plan, data).clone()
    plan.eval()
    with torch.no_grad():
        student = plan.student.neck[0](plan.student.backbone(data[2].images))
        outcome = plan(data[2])
    torch.testing.assert_close(outcome.raw["kd/typical"], (student - found).square().mean())
    assert plan.report.teacher_stages_run == ()
    assert "teacher_neck" not in plan.code


def test_the_result_is_part_of_the_plans_state() -> None:
    plan, other = plan_of(), plan_of()
    found = prepared(plan, batches(2))
    other.load_state_dict(plan.state_dict())
    assert torch.equal(other.ops["usual"].mean, found)
    assert "ops.usual.mean" in plan.state_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((NAME, "prepare.nothing"), 'no op "prepare.nothing"'),
        (("features: ", "maps: "), 'has no input or option "maps"'),
        (("every: epoch", "every: week"), "prepare.usual.every"),
        (('"teacher.neck[0]"', "teacher.neck[0"), "is no reference"),
        (("teacher: usual", "teacher: unusual"), 'no owner, node or batch value "unusual"'),
    ],
)
def test_mistakes_are_found_before_anything_runs(change: tuple[str, str], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan_of(TEXT.replace(*change).replace("teacher.neck[0,", '"teacher.neck[0",'))
    assert message in str(caught.value)
