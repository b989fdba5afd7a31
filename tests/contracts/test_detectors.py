"""What every registered detector promises to graph and engine; its family's own tests compare it with its library."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from kdflow.graph.offers import AnyDetector, bare
from kdflow.graph.passes.fakes import Fakes
from kdflow.kinds import SCALAR, Kind
from kdflow.ports import BATCH_PORTS, DETECTORS, Detector, Port
from kdflow.standard_ports import STANDARD_PORTS, standard_of
from tests.contracts.tiny_detectors import NAMES, batch_for, detector_of
from tests.detectors.staging import run_stages

each = pytest.mark.parametrize("name", NAMES)


@pytest.mark.parametrize("name", [name for name, port in STANDARD_PORTS.items() if port.node[1]])
def test_every_standard_port_of_transformers_is_offered_by_one_of_them(name: str) -> None:
    detectors = AnyDetector({"transformer"})
    assert detectors.ports[name].kind == STANDARD_PORTS[name].kind
    known = detectors.standard(name)
    assert known is not None
    assert (known.kind, known.node) == (detectors.ports[name].kind, detectors.ports[name].node)
    assert AnyDetector({"dense"}).standard(name) is None


@pytest.mark.parametrize("family", ["two-stage", "dense", "transformer"])
def test_what_a_family_offers_is_known_in_full(family: str) -> None:
    assert not AnyDetector({family}).unknown


def test_a_backbone_that_is_named_by_its_options_alone_offers_its_ports() -> None:
    assert not DETECTORS.get("features").stands_alone
    detector = bare("features")
    assert detector is not None
    assert {"backbone", "backbone.last", "tokens"} <= set(detector.ports)
    assert AnyDetector({"transformer"}).ports["backbone.last"].node == "transformer/feature"


@each
def test_it_is_a_detector_as_registered(name: str) -> None:
    detector, family = detector_of(name), DETECTORS.get(name)
    assert isinstance(detector, Detector)
    assert (detector.name, detector.family, detector.library) == (name, family.family, family.library)
    assert detector.family in ("two-stage", "dense", "transformer")
    assert family.licence
    assert family.doc
    assert detector.size_divisor >= 1


@each
def test_stages_read_what_exists_before_them(name: str) -> None:
    detector = detector_of(name)
    known = set(BATCH_PORTS)
    for stage_name, stage in detector.stages.items():
        assert set(stage.reads.values()) <= known, stage_name
        known |= {port for port, spec in detector.ports.items() if spec.stage == stage_name}
    for port, spec in detector.ports.items():
        assert spec.key in detector.stages[spec.stage].gives, port


@each
def test_calls_name_what_exists(name: str) -> None:
    detector = detector_of(name)
    for call_name, call in detector.calls.items():
        assert set(call.outputs.values()) <= set(detector.ports), call_name
        for target in call.inputs.values():
            stage, _, argument = target.partition(":")
            assert argument in detector.stages[stage].reads if argument else target in detector.ports, (
                call_name,
                target,
            )
        for option, stage in call.options.items():
            assert option in detector.stages[stage].options, (call_name, option)
        assert call.doc


@each
def test_standard_ports_keep_their_kind_and_place(name: str) -> None:
    detector = detector_of(name)
    root = 1 if detector.family == "transformer" else 0
    for port, spec in detector.ports.items():
        standard = standard_of(port)
        if standard is not None:
            assert (spec.kind, spec.node) == (standard.kind, standard.node[root]), port
        assert spec.doc, port


def entries(value: Any, kind: Kind) -> list[Any]:
    """The tensors of a stack, or the one value."""
    return list(value) if kind.stack else [value]


def judge(port: str, spec: Port, value: Any, detector: Detector, canvas: tuple[int, int]) -> None:
    """A port's value is what its description says."""
    if spec.kind.opaque:
        return
    found = entries(value, spec.kind)
    assert all(isinstance(v, Tensor) for v in found), port
    if spec.kind.axes is not None:
        assert {v.dim() for v in found} <= {len(spec.kind.axes)}, port
    assert spec.length is None or len(found) == spec.length, port
    axes = spec.kind.axes or ()
    if spec.channels and "c" in axes:
        assert tuple(v.shape[axes.index("c")] for v in found) == spec.channels, port
    if spec.strides and "y" in axes:
        for v, stride in zip(found, spec.strides, strict=True):
            assert all(abs(side / stride - cells) < 1 for side, cells in zip(canvas, v.shape[-2:])), port
    expected = {"softmax": len(detector.classes) + 1, "sigmoid": len(detector.classes), "xyxy": None, "cxcywh": 4}.get(
        spec.form
    )
    if expected is not None and not port.startswith("rpn."):
        assert {v.shape[-1] for v in found} == {expected}, port
    if spec.form == "xyxy" and spec.kind.axes and "c" in axes and not port.startswith("roi.decoded"):
        assert {v.shape[-1] for v in found} == {4}, port


@each
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_every_port_is_what_it_says(name: str, training: bool) -> None:
    detector, batch = detector_of(name), batch_for(name)
    detector.model.train(training)
    values = run_stages(detector, batch)
    for port, spec in detector.ports.items():
        judge(port, spec, values[port], detector, tuple(batch.images.shape[-2:]))
    for one in values["detections"]:
        assert set(one) == {"boxes", "scores", "labels"}


def leaves(value: Any) -> Iterator[Tensor]:
    """All tensors of a nested value."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from leaves(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from leaves(entry)


@pytest.fixture(scope="module")
def new_fakes() -> Iterator[Callable[[], Fakes]]:
    """Makes fake tensors of which nothing in this process may keep any: a real pass would find them."""
    modes = []

    def make() -> Fakes:
        fakes = Fakes()
        modes.append(fakes.mode)
        return fakes

    yield make
    gc.collect()
    assert not [o for o in gc.get_objects() if type(o) is FakeTensor and o.fake_mode in modes], "some cache keeps them"


@each
def test_shapes_can_be_inferred_on_fake_tensors(name: str, new_fakes: Callable[[], Fakes]) -> None:
    detector, batch = detector_of(name), batch_for(name, (2, 2))
    detector.model.eval()
    real = run_stages(detector, batch)
    fakes = new_fakes()
    runs, values = fakes.stages(detector), dict(fakes.value(batch.values()))
    with fakes.active(), torch.no_grad():
        for stage_name, stage in detector.stages.items():
            inputs = {argument: values[port] for argument, port in stage.reads.items()}
            if stage.infer is not None:
                with suppress(Exception):  # taps inside a stage run it itself, as far as that goes
                    runs[stage_name](**inputs, **stage.options)
            result = (stage.infer or runs[stage_name])(**inputs, **stage.options)
            values |= {p: result[s.key] for p, s in detector.ports.items() if s.stage == stage_name}
    for port, spec in detector.ports.items():
        if spec.kind.opaque:
            continue
        wanted, found = entries(real[port], spec.kind), entries(values[port], spec.kind)
        assert [(v.dim(), v.dtype) for v in found] == [(v.dim(), v.dtype) for v in wanted], port
        if "n" not in (spec.kind.axes or ()):
            assert [tuple(map(int, v.shape)) for v in found] == [tuple(v.shape) for v in wanted], port
    assert not any(p.device.type == "meta" for p in detector.model.parameters())


@each
def test_only_stochastic_stages_draw_and_dense_ones_need_no_rule(name: str) -> None:
    detector, batch = detector_of(name), batch_for(name)
    detector.model.train()
    values: dict[str, Any] = dict(batch.values())
    for stage_name, stage in detector.stages.items():
        torch.manual_seed(3)
        before = torch.get_rng_state()
        result = stage.run(**{a: values[p] for a, p in stage.reads.items()}, **stage.options)
        assert stage.stochastic or torch.equal(before, torch.get_rng_state()), f"{stage_name} draws random numbers"
        assert not (stage.dense and (stage.stochastic or stage.infer)), stage_name
        values |= {p: result[s.key] for p, s in detector.ports.items() if s.stage == stage_name}


@each
@pytest.mark.parametrize("counts", [(3, 1), (2, 0), (0, 0)], ids=["objects", "one image empty", "all images empty"])
def test_losses_are_finite_scalars_with_finite_gradients(name: str, counts: tuple[int, int]) -> None:
    detector = detector_of(name)
    detector.model.train()
    values = run_stages(detector, batch_for(name, counts))
    losses = {term: values[port] for term, port in detector.losses.items()}
    assert all(detector.ports[port].kind == SCALAR for port in detector.losses.values())
    assert all(value.dim() == 0 and torch.isfinite(value) for value in losses.values()), losses
    sum(losses.values()).backward()
    untrained = set(getattr(detector, "optional", ()))
    for parameter, value in detector.model.named_parameters():
        assert value.grad is None or torch.isfinite(value.grad).all(), parameter
        if counts == (3, 1) and value.requires_grad:
            assert (value.grad is None) == (parameter in untrained), parameter


@each
def test_a_frozen_teacher_in_evaluation_mode_does_not_change(name: str) -> None:
    detector = detector_of(name)
    detector.model.requires_grad_(False).eval()
    before = copy.deepcopy(detector.model.state_dict())
    values = run_stages(detector, batch_for(name))
    assert not any(tensor.requires_grad for tensor in leaves(list(values.values())))
    after = detector.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())


@each
def test_predictions_are_boxes_scores_and_zero_based_labels_best_first(name: str) -> None:
    detector, batch = detector_of(name), batch_for(name)
    detector.model.train()
    found = detector.predict(batch.images, batch.image_sizes)
    assert detector.model.training
    assert len(found) == len(batch.images)
    for one, (height, width) in zip(found, batch.image_sizes):
        count = len(one["boxes"])
        assert one["boxes"].shape == (count, 4)
        assert one["scores"].shape == one["labels"].shape == (count,)
        assert one["labels"].dtype == torch.int64
        assert ((one["labels"] >= 0) & (one["labels"] < len(detector.classes))).all()
        assert ((one["scores"] >= 0) & (one["scores"] <= 1)).all()
        assert not any(tensor.requires_grad for tensor in one.values())
        if detector.family != "transformer":
            assert (one["scores"].diff() <= 0).all()
            assert (one["boxes"] >= 0).all()
            assert (one["boxes"] <= torch.tensor([width, height, width, height])).all()


@each
def test_a_stage_runs_the_models_own_parameters(name: str) -> None:
    detector = detector_of(name)
    own = {id(p) for p in detector.model.parameters()}
    run = {id(p) for stage in detector.stages.values() for p in stage.run.parameters()}
    assert run == own


@each
def test_a_training_step_under_autocast_stays_near_single_precision(name: str) -> None:
    detector, batch = detector_of(name), batch_for(name)
    detector.model.train()
    found = []
    for enabled in (False, True):
        torch.manual_seed(5)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            values = run_stages(copy.deepcopy(detector), batch)
        losses = [values[port] for port in detector.losses.values()]
        total = sum(value.float() for value in losses)
        total.backward()
        found.append(float(total.detach()))
    assert abs(found[1] - found[0]) < 0.1 * abs(found[0])
