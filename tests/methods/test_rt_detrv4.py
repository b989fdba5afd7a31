"""Properties of a frozen backbone as the teacher of a detector's deepest map."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdflow.engine.control import next_weight
from kdflow.experiment.reading import read_method
from kdflow.graph.compile import compile_method
from kdflow.graph.plan import Plan
from kdflow.spec.method import trains
from tests.contracts.tiny_detectors import batch_for, detector_of
from tests.methods.shipped import SPECS, maps, plan_of, terms_of


def plan(ours: Tensor, theirs: Tensor) -> Plan:
    given = {"student.encoder.attended": ours, "teacher.backbone.last": theirs}
    changes = {"nodes.projected.init": "identity", "terms.semantics.at": "transformer/feature"}
    return plan_of("rt-detrv4", given, family="transformer", changes=changes, kinds=dict.fromkeys(given, "map"))


def semantics(ours: Tensor, theirs: Tensor) -> Tensor:
    (value,) = terms_of(plan(ours, theirs), "semantics")
    return value


def test_the_weight_follows_the_attention_layers_share_as_released() -> None:
    control = read_method(SPECS / "rt-detrv4.yaml").resolve({}, {}).terms["semantics"].control
    assert control is not None
    weights = [5.0]
    for share in (0.04, 0.0923333333, 0.1085, 0.135, 0.11, 0.0825):
        weights.append(next_weight(control, weights[-1], share))
    assert weights == pytest.approx([5.0, 16.36363636, 21.93543575, 21.93543575, 15.61658594, 15.61658594, 23.6830043])
    assert next_weight(control, 7.0, 0.11, ended=True) == 20.0
    assert next_weight(control, 7.0, 0.0) == 20.0
    names = [f"student.{name}" for name, _ in detector_of("rt-detr").model.named_parameters()]
    chosen = [name for name in names if any(trains(pattern, name) for pattern in control.of)]
    assert chosen
    assert all("encoder.aifi.0" in name for name in chosen)


def test_only_directions_count() -> None:
    ours, theirs = maps((2, 4, 3, 3), (2, 4, 3, 3))
    assert float(semantics(2.5 * theirs, theirs).detach()) == pytest.approx(0, abs=1e-6)
    assert float(semantics(-theirs, theirs).detach()) == pytest.approx(2)
    torch.testing.assert_close(semantics(3 * ours, theirs), semantics(ours, 7 * theirs))


def test_a_zero_vector_counts_as_one_and_gives_no_gradient() -> None:
    (ours,) = maps((1, 4, 2, 2), grad=True)
    theirs = ours.detach().clone()
    theirs[:, :, 0, 1] = 0
    loss = semantics(ours, theirs)
    assert float(loss.detach()) == pytest.approx(0.25)
    (grad,) = torch.autograd.grad(loss, ours)
    assert float(grad[:, :, 0, 1].abs().max()) == 0


def test_gradient_is_orthogonal_to_the_map_at_every_place() -> None:
    ours, theirs = maps((2, 4, 3, 3), (2, 4, 5, 5), grad=True)
    (grad,) = torch.autograd.grad(semantics(ours, theirs.detach()), ours)
    assert float((grad * ours.detach()).sum(1).abs().max()) < 1e-7
    assert float(grad.abs().max()) > 0


def test_fusion_decoder_and_heads_learn_nothing_from_it() -> None:
    detectors = {"student": detector_of("rt-detr"), "teacher": detector_of("rt-detr", 1)}
    spec = read_method(SPECS / "rt-detrv4.yaml")
    families = {"student.family": "transformer", "student.detector": "rt-detr", "teacher.family": "transformer"}
    method = spec.resolve(families, {"nodes.wanted.features": "teacher.encoder.attended"})
    built = compile_method(method, spec.document, detectors, canvas=(96, 96))
    built(batch_for("rt-detr")).weighted["kd/semantics"].backward()
    grads = {name: parameter.grad for name, parameter in built.student.named_parameters() if parameter.grad is not None}
    reached = {name for name, grad in grads.items() if float(grad.abs().max()) > 0}
    assert any("encoder.aifi" in name for name in reached)
    assert any("backbone" in name for name in reached)
    assert not any(part in name for name in reached for part in ("decoder", "fpn_blocks", "pan_blocks", "lateral"))
