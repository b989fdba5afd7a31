"""Plans on toy detectors: what runs, what trains, what is equal to a hand-written step."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from kdflow.errors import SpecError
from kdflow.graph.compile import compile_method
from kdflow.graph.node import Role
from kdflow.graph.plan import Plan
from kdflow.ports import Batch
from kdflow.spec.resolve import parse_method
from tests.toy import make_toy, toys

HEAD = "kdflow: 1\nmethod: test\n"
NECK = HEAD + (
    "terms:\n"
    "  neck: {loss: loss.squared_error, student: student.neck, teacher: teacher.neck, weight: 2, reduce: sum_of_means}\n"
)


def plan_of(text: str, detectors: dict[str, Any] | None = None, seed: int | None = 0) -> Plan:
    spec = parse_method(text, "test.yaml")
    return compile_method(spec.resolve(), spec.document, detectors or toys(), canvas=(16, 16), seed=seed)


def faults(text: str, detectors: dict[str, Any] | None = None) -> str:
    with pytest.raises(SpecError) as caught:
        plan_of(text, detectors)
    return str(caught.value)


def test_total_equals_a_hand_written_step(batch: Batch) -> None:
    detectors = toys()
    by_hand = copy.deepcopy(detectors)
    outcome = plan_of(NECK, detectors)(batch)
    student, teacher = by_hand["student"].model, by_hand["teacher"].model.eval()
    features = {}
    for name, model in (("student", student), ("teacher", teacher)):
        base = model.backbone(batch.images)
        features[name] = [layer(base) for layer in model.neck]
    logits = [student.head(f) for f in features["student"]]
    detection = sum(x.square().mean() for x in logits) * 2
    kd = sum((s - t).square().mean() for s, t in zip(features["student"], features["teacher"]))
    assert outcome.raw["kd/neck"].equal(kd)
    torch.testing.assert_close(outcome.total, detection + 2 * kd)


def test_teacher_stages_behind_the_last_tap_never_run(batch: Batch) -> None:
    detectors = toys()
    plan = plan_of(NECK, detectors)
    plan(batch)
    assert plan.report.teacher_stages_run == ("teacher.backbone", "teacher.neck")
    assert plan.report.teacher_stages_pruned == ("teacher.head", "teacher.assign", "teacher.loss")
    assert detectors["teacher"].stages["head"].run.calls == 0
    assert "teacher_head" not in plan.code


def test_teacher_is_frozen_hidden_and_stays_in_eval_mode(batch: Batch) -> None:
    plan = plan_of(NECK)
    before = copy.deepcopy(plan.teachers["teacher"].state_dict())
    plan.train()
    plan(batch).total.backward()
    teacher = plan.teachers["teacher"]
    assert not any(m.training for m in teacher.modules())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())
    assert all(k.startswith("student.") for k in plan.state_dict())
    assert {id(p) for p in teacher.parameters()}.isdisjoint(id(p) for p in plan.parameters())
    assert plan.student.training


def test_adapters_are_sized_seeded_and_trained_with_the_student(batch: Batch) -> None:
    text = HEAD + (
        "nodes:\n  wide: {op: adapter.conv, features: student.neck, like: teacher.neck}\n"
        "terms:\n  neck: {loss: loss.squared_error, student: wide, teacher: teacher.neck, reduce: sum_of_means}\n"
    )
    one, two = plan_of(text, toys(6)), plan_of(text, toys(6))
    assert [tuple(p.shape) for n, p in one.named_parameters() if n.startswith("ops") and "weight" in n] == [
        (6, 4, 1, 1)
    ] * 2
    assert all(a.equal(b) for a, b in zip(one.ops.parameters(), two.ops.parameters()))
    assert not one.ops["wide"][0].conv.weight.equal(one.ops["wide"][1].conv.weight)
    one(batch).total.backward()
    assert all(p.grad is not None for p in one.ops.parameters())
    assert one.report.adapters == {"wide": 2 * (6 * 4 + 6)}
    assert one.terms[1].nodes == ("cnn/neck",)


def test_call_reruns_only_what_depends_on_the_replaced_input(batch: Batch) -> None:
    text = HEAD + (
        "nodes:\n  cross: {call: teacher.head, features: student.neck}\n"
        "terms:\n  head: {loss: loss.squared_error, student: cross.logits, teacher: teacher.head.logits, reduce: sum_of_means}\n"
    )
    plan = plan_of(text)
    stages = [n.name for n in plan.graph.of_role(Role.STAGE)]
    assert "cross:head" in stages
    assert "cross:neck" not in stages
    assert plan.terms[1].nodes == ("cnn/head",)
    plan(batch).total.backward()
    assert plan.student.neck[0].weight.grad is not None
    assert all(p.grad is None for p in plan.teachers["teacher"].parameters())


def test_call_passes_options_and_refuses_unknown_ones() -> None:
    text = HEAD + (
        "nodes:\n  again: {call: student.head, scale: 2.0}\n"
        "terms:\n  head: {loss: loss.squared_error, student: student.head.logits, teacher: again.logits, reduce: sum_of_means}\n"
    )
    plan = plan_of(text)
    assert plan.graph["again:head"].options == {"scale": 2.0}
    assert 'no input or option "scael"' in faults(text.replace("scale", "scael"))


def test_equal_nodes_are_computed_once() -> None:
    text = HEAD + (
        "nodes:\n  a: {op: transform.relu, values: student.neck}\n  b: {op: transform.relu, values: student.neck}\n"
        "terms:\n  one: {loss: loss.squared_error, student: a, teacher: teacher.neck, reduce: sum_of_means}\n"
        "  two: {loss: loss.l1, student: b, teacher: teacher.neck, reduce: sum_of_means}\n"
    ).replace("values: student", f"{relu_input()}: student")
    names = [n.name for n in plan_of(text).graph.of_role(Role.OP)]
    assert "a" in names
    assert "b" not in names


def relu_input() -> str:
    from kdflow.operation import OPS

    return next(iter(OPS.get("transform.relu").inputs))


def test_streams_make_draws_depend_on_seed_step_and_name_alone(batch: Batch) -> None:
    text = HEAD + (
        "terms:\n  rows: {loss: loss.squared_error, student: student.head.logits, teacher: teacher.head.logits, "
        "rows: student.assign.positive, reduce: {over: [rows], levels: sum}}\n"
    )
    plan = plan_of(text)
    plan.eval()

    def value(step: int) -> float:
        torch.rand(3)  # other users of the global generator must not matter
        plan.advance(step, 10, 10)
        return plan(batch).raw["kd/rows"].item()

    first = [value(0), value(1)]
    assert first == [value(0), value(1)]
    assert first[0] != first[1]


def test_weights_follow_their_schedule_without_changing_raw_values(batch: Batch) -> None:
    plan = plan_of(NECK.replace("weight: 2", "weight: 2, schedule: {warmup: 4, decay: {shape: linear, by: step}}"))
    plan.eval()
    shares = []
    for step in (0, 2, 8):
        plan.advance(step, 10, 5)
        outcome = plan(batch)
        shares.append((outcome.weighted["kd/neck"] / outcome.raw["kd/neck"]).item())
    assert shares == pytest.approx([0.0, 2 * 0.5 * 0.8, 2 * 0.2])


def test_phases_choose_the_terms_that_count(batch: Batch) -> None:
    plan = plan_of(NECK + "phases:\n  - {name: warm, steps: 0.5, terms: [det/*]}\n  - {name: main, steps: 0.5}\n")
    for phase, active in (("warm", {"det/loss"}), ("main", {"det/loss", "kd/neck"})):
        plan.enter(phase)
        plan.advance(0, 10, 5)
        outcome = plan(batch)
        assert set(outcome.weighted) == set(outcome.raw) == active
        assert ("teacher_neck" in plan.code) == ("kd/neck" in active)


def test_interior_tap_reaches_any_submodule(batch: Batch) -> None:
    text = (
        HEAD + "terms:\n  stem: {loss: loss.squared_error, student: student@backbone.2, teacher: teacher@backbone.2}\n"
    )
    plan = plan_of(text)
    assert plan.terms[1].nodes == ("cnn/backbone",)
    value = plan(batch).raw["kd/stem"]
    student, teacher = (plan.detectors[o].model for o in ("student", "teacher"))
    expected = (student.backbone(batch.images) - teacher.backbone(batch.images)).square().mean()
    assert value.equal(expected)
    assert not any(m._forward_hooks for m in plan.modules())


def test_interior_tap_on_a_tensor_that_is_overwritten_is_refused(batch: Batch) -> None:
    detectors = toys()
    for detector in detectors.values():
        detector.model.backbone[2].inplace = True
    text = (
        HEAD + "terms:\n  stem: {loss: loss.squared_error, student: student@backbone.1, teacher: teacher@backbone.1}\n"
    )
    assert "overwritten in place" in faults(text, detectors)


def test_evaluate_cuts_the_graph_at_given_values() -> None:
    plan = plan_of(NECK)
    s, t = [torch.ones(1, 4, 2, 2)], [torch.zeros(1, 4, 2, 2)]
    assert plan.evaluate({"student.neck": s, "teacher.neck": t}, ["kd/neck"])["kd/neck"].item() == 1.0


def test_detector_losses_can_be_reweighted_and_dropped(batch: Batch) -> None:
    plan = plan_of(NECK + "  det.loss: {weight: 0.5}\n")
    outcome = plan(batch)
    assert outcome.weighted["det/loss"].item() == pytest.approx(0.5 * outcome.raw["det/loss"].item())
    assert "det/loss" not in plan_of(NECK + "  det.loss: {drop: true}\n")(batch).raw


def test_shape_mismatches_are_found_before_anything_runs() -> None:
    assert "adapter.conv" in faults(NECK, toys(6))
    text = faults(NECK.replace("teacher: teacher.neck", 'teacher: "teacher.neck[0:1]"'))
    assert "student.neck has 2" in text
    assert "test.yaml:4" in text
    assert "0 to 1" in faults(NECK.replace("student: student.neck", 'student: "student.neck[4]"'))


def test_terms_are_placed_by_what_they_compare_and_declarations_are_checked() -> None:
    assert "compares a tensor of cnn/neck" in faults(NECK.replace("weight: 2", "at: cnn/head"))
    assert plan_of(NECK.replace("weight: 2", "at: [cnn/neck, transformer/feature]")).terms[1].nodes == (
        "cnn/neck",
        "transformer/feature",
    )


def test_idle_terms_are_checked_but_cost_nothing(batch: Batch) -> None:
    plan = plan_of(NECK.replace("weight: 2", "weight: 0"))
    assert [t.name for t in plan.terms] == ["det/loss"]
    assert plan.report.teacher_stages_run == ()
    assert "adapter.conv" in faults(NECK.replace("weight: 2", "weight: 0"), toys(6))


def test_deepcopy_of_a_detector_does_not_disturb_inference() -> None:
    toy = make_toy()
    before = copy.deepcopy(toy.model.state_dict())
    plan_of(NECK, {"student": toy, "teacher": make_toy()})
    assert all(torch.equal(before[k], v) for k, v in toy.model.state_dict().items())


def test_detectors_that_were_moved_to_another_device_are_inferred_like_others() -> None:
    """A second plan of a session meets detectors on the GPU; torch's device without memory stands for it."""
    detectors = {"student": make_toy(), "teacher": make_toy()}
    here = plan_of(NECK, detectors).graph["student.neck"].value.fake
    for detector in detectors.values():
        detector.model.to("meta")
    there = plan_of(NECK, detectors).graph["student.neck"].value.fake
    assert [tuple(m.shape) for m in there] == [tuple(m.shape) for m in here]
    assert {m.device.type for m in there} == {"cpu"}
