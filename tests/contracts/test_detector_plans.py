"""What every registered detector promises inside a compiled plan."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from kdflow import api
from kdflow.graph.compile import compile_method
from kdflow.graph.draw import as_json, as_text
from kdflow.graph.plan import Plan
from kdflow.ports import Batch, Detector
from kdflow.spec.resolve import parse_method
from tests.contracts.tiny_detectors import NAMES, batch_for, detector_of
from tests.detectors.staging import run_stages

each = pytest.mark.parametrize("name", NAMES)
ONCE_PER_LEVEL = ("faster-rcnn", "retinanet", "fcos", "gfl", "atss")
NECK = (
    "kdflow: 1\nmethod: t\nterms:\n"
    "  neck: {loss: loss.squared_error, student: student.neck, teacher: teacher.neck, reduce: sum_of_means}\n"
)

PROPOSALS = """
kdflow: 1
method: t
terms:
  first:
    loss: loss.squared_error
    student: student.encoder.SIDE
    teacher: teacher.encoder.SIDE
    reduce: sum_of_means
"""


def pair_of(name: str) -> dict[str, Any]:
    return {"student": detector_of(name, 1), "teacher": detector_of(name, 2)}


def plan_of(text: str, detectors: dict[str, Any]) -> Plan:
    spec = parse_method(text, "test.yaml")
    return compile_method(spec.resolve(), spec.document, detectors, canvas=(96, 96))


@each
def test_what_never_trains_is_frozen_and_named(name: str) -> None:
    built, spec = detector_of(name), api.load("baseline")
    detector = copy.deepcopy(built)
    plan = compile_method(spec.resolve(), spec.document, {"student": detector}, canvas=(96, 96))
    idle = tuple(getattr(detector, "optional", ()))
    assert plan.report.frozen == idle
    assert as_json(plan)["frozen"] == list(idle)
    assert all(parameter in as_text(plan) for parameter in idle)
    assert ("frozen, because no loss" in as_text(plan)) == bool(idle)
    plan.train()
    plan(batch_for(name)).total.backward()
    constants = {parameter for parameter, value in built.model.named_parameters() if not value.requires_grad}
    for parameter, value in detector.model.named_parameters():
        assert value.requires_grad == (parameter not in {*idle, *constants}), parameter
        assert (value.grad is not None) == value.requires_grad, parameter


@each
def test_each_listed_entry_trains_what_is_unused_otherwise(name: str) -> None:
    detector = detector_of(name)
    for parameter, entries in getattr(detector, "optional", {}).items():
        for port, index in entries:
            detector.model.train()
            detector.model.zero_grad()
            run_stages(detector, batch_for(name))[port][index].square().sum().backward()
            gradient = detector.model.get_parameter(parameter).grad
            assert gradient is not None, (parameter, port)
            assert gradient.any(), (parameter, port)


@pytest.mark.parametrize(("side", "idle"), [("logits", 6), ("logits[0]", 6), ("boxes", 2), ("boxes[-1:]", 2)])
def test_a_term_on_otherwise_optional_trains_them(side: str, idle: int) -> None:
    detectors = pair_of("deformable-detr")
    plan = plan_of(PROPOSALS.replace("SIDE", side), detectors)
    assert len(plan.report.frozen) == idle
    plan.train()
    plan(batch_for("deformable-detr")).total.backward()
    silent = {n for n, p in detectors["student"].model.named_parameters() if p.grad is None}
    assert set(plan.report.frozen) <= silent
    assert not silent & (set(detectors["student"].optional) - set(plan.report.frozen))  # type: ignore[attr-defined]


UNTRAINED = {"deformable-detr": 12, "rf-detr": 1}
"""Family -> parameters that its losses do not reach: proposals without a loss; the mask token of a pretraining."""


@each
def test_only_some_families_have_such_parameters(name: str) -> None:
    assert len(getattr(detector_of(name), "optional", ())) == UNTRAINED.get(name, 0)


@each
def test_a_pruned_teacher_runs_no_further_than_its_last_tap_and_teaches_the_same(name: str) -> None:
    detectors, batch = pair_of(name), batch_for(name)
    whole = copy.deepcopy(detectors)
    plan = plan_of(NECK, detectors)
    calls: Counter[str] = Counter()
    stages = detectors["teacher"].stages
    for stage_name, stage in stages.items():
        stage.run.register_forward_hook(lambda *_, stage_name=stage_name: calls.update([stage_name]))
    plan.train()
    raw = plan(batch).raw["kd/neck"]
    run, pruned = (
        [stage.removeprefix("teacher.") for stage in found]
        for found in (plan.report.teacher_stages_run, plan.report.teacher_stages_pruned)
    )
    assert sorted([*run, *pruned]) == sorted(stages)
    assert dict(calls) == dict.fromkeys(run, 1)
    assert {"detections", "losses", "criterion", "postprocess", "roi.head", "decoder"} & set(pruned)
    whole["student"].model.train()
    whole["teacher"].model.eval()
    ours, theirs = (run_stages(whole[owner], batch)["neck"] for owner in ("student", "teacher"))
    assert torch.equal(raw, torch.stack([(a - b).square().mean() for a, b in zip(ours, theirs)]).sum())


def seen_inside(detector: Detector, batch: Batch) -> dict[str, list[torch.Tensor]]:
    """Convolution or linear layer -> its outputs, call by call, in the first stage that runs it; none that are overwritten."""
    names = {
        module: path for path, module in detector.model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))
    }
    found: dict[str, list[torch.Tensor]] = {}
    values: dict[str, Any] = dict(batch.values())
    for name, stage in detector.stages.items():
        new = {m: names[m] for m in stage.run.modules() if m in names and names[m] not in found}
        found |= {path: [] for path in new.values()}
        hooks = [
            m.register_forward_hook(lambda _m, _i, output, calls=found[path]: calls.append(output))
            for m, path in new.items()
        ]
        result = stage.run(**{argument: values[port] for argument, port in stage.reads.items()}, **stage.options)
        values |= {port: result[spec.key] for port, spec in detector.ports.items() if spec.stage == name}
        for hook in hooks:
            hook.remove()
    return {path: outputs for path, outputs in found.items() if all(output._version == 0 for output in outputs)}


@each
def test_any_layer_can_be_tapped_and_gives_a_list_where_it_runs_once_per_level(name: str) -> None:
    detectors, batch = pair_of(name), batch_for(name)
    teacher = copy.deepcopy(detectors["teacher"])
    teacher.model.eval()
    with torch.no_grad():
        seen = seen_inside(teacher, batch)
    body = set(teacher.stages["backbone"].run.modules())
    inside = next(p for p, outputs in seen.items() if teacher.model.get_submodule(p) in body and len(outputs) == 1)
    repeated = [path for path, outputs in seen.items() if len(outputs) > 1 and len({o.dim() for o in outputs}) == 1]
    assert repeated or name not in ONCE_PER_LEVEL
    for path in [inside, *repeated[-1:]]:
        text = (
            "kdflow: 1\nmethod: t\nterms:\n"
            f"  tap: {{loss: loss.squared_error, student: 'student@{path}', teacher: 'teacher@{path}', reduce: sum_of_means}}\n"
        )
        plan = plan_of(text, copy.deepcopy(detectors))
        with torch.no_grad():
            value = plan.evaluate(batch, [f"teacher@{path}"])[f"teacher@{path}"]
        outputs = value if isinstance(value, list) else [value]
        assert isinstance(value, list) == (len(seen[path]) > 1)
        assert len(outputs) == len(seen[path])
        assert all(torch.equal(a, b) for a, b in zip(outputs, seen[path])), path
        plan.eval()  # layers of a decoder also see the denoising queries in training
        assert plan(batch).raw["kd/tap"] > 0
        left = [hook for module in plan.student.modules() for hook in module._forward_hooks.values()]
        assert not [hook for hook in left if "kdflow" in getattr(hook, "__module__", "kdflow")]  # the library keeps its own
