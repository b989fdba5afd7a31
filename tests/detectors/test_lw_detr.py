"""LW-DETR and RF-DETR: query groups, windows, levels, options."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kdflow.errors import UsageError
from tests.detectors.hf_tiny import assert_same_gradients, both, build, make_batch, own_losses, weighted
from tests.detectors.library import make_batch as square_batch
from tests.detectors.staging import run_call, run_stages

NAMES = ("lw-detr", "rf-detr")
SQUARE = ((96, 96), (96, 96))
each = pytest.mark.parametrize("name", NAMES)


def constant_norms(detector: Any, training: bool) -> Any:
    """The detector in either mode, its BatchNorms in evaluation mode."""
    detector.model.train(training)
    for module in detector.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    return detector


@each
def test_ports_are_the_first_group_which_is_what_evaluation_gives(name: str) -> None:
    detector, batch = build(name), make_batch((2, 1))
    training = run_stages(constant_norms(detector, training=True), batch)
    evaluation = run_stages(constant_norms(detector, training=False), batch)
    for port in (
        "decoder.states",
        "decoder.logits",
        "decoder.boxes",
        "decoder.references",
        "encoder.logits",
        "encoder.boxes",
    ):
        for ours, theirs in zip(training[port], evaluation[port], strict=True):
            assert torch.equal(ours, theirs), port
    for layer, expected in zip(training["match.indices"], evaluation["match.indices"], strict=True):
        for pair, wanted in zip(layer, expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(pair, wanted, strict=True))


@each
def test_per_group_ports_hold_all_groups_in_training_and_one_in_evaluation(name: str) -> None:
    detector, batch = build(name), make_batch((2, 1))
    for training, groups in ((True, 3), (False, 1)):
        detector.model.train(training)
        values = run_stages(detector, batch)
        for port, first in (("logits", "decoder.logits"), ("boxes", "decoder.boxes"), ("states", "decoder.states")):
            for every, own in zip(values[f"per_group.{port}"], values[first], strict=True):
                assert every.shape[1] == groups * 10
                assert torch.equal(every[:, :10], own)
        assert values["per_group.encoder_logits"][0].shape[1] == groups * 10
        for layer in values["per_group.indices"]:
            assert [len(query) for query, _ in layer] == [2 * groups, groups]
            for query, _ in layer:
                assert torch.equal(query // 10, torch.arange(groups).repeat_interleave(len(query) // groups))


@each
def test_foreign_queries_in_training_are_one_group_of_their_own(name: str) -> None:
    detector, batch = build(name), make_batch((2, 1))
    foreign = {"content": torch.rand(2, 7, 32), "references": torch.rand(2, 7, 4)}
    found = []
    for training in (True, False):
        values = run_stages(constant_norms(detector, training), batch)
        found.append(run_call(detector, "decoder", values, queries=foreign))
    assert detector.model.config.group_detr == 3
    for ours, theirs in zip(found[0]["logits"], found[1]["logits"], strict=True):
        assert torch.equal(ours, theirs)


@each
def test_the_criterion_on_foreign_predictions_is_that_of_one_group(name: str) -> None:
    detector, batch = build(name), make_batch((2, 1))
    training = run_stages(constant_norms(detector, training=True), batch)
    copied = {key: [x.clone() for x in training[f"decoder.{key}"]] for key in ("logits", "boxes")}
    found = run_call(detector, "criterion", training, **copied)
    evaluation = run_stages(constant_norms(detector, training=False), batch)
    assert torch.equal(found["total"], evaluation["criterion.total"])
    assert found["total"] != training["criterion.total"]


def compare(detector: Any, batch: Any) -> None:
    values, output, library = both(detector, batch, training=True)
    own, theirs = own_losses(detector, values), weighted(output, detector.model.config)
    assert set(own) == set(theirs)
    assert all(torch.equal(own[key], value) for key, value in theirs.items())
    sum(own.values()).backward()  # type: ignore[union-attr]
    output.loss.backward()
    assert_same_gradients(detector.model, library)


@each
def test_windows_on_a_square_canvas_equal_the_library(name: str) -> None:
    detector = build(name, windows=2)
    assert detector.size_divisor == 32
    compare(detector, square_batch((2, 1), SQUARE))


def test_rf_detr_with_windows_refuses_other_canvases() -> None:
    detector = build("rf-detr", windows=2)
    with pytest.raises(UsageError, match=r"square images alone .* this canvas is 96 x 128.* windows: 1"):
        run_stages(detector, make_batch((2, 1)))
    batch = make_batch((2, 1))
    with pytest.raises(UsageError, match="square images alone"):
        detector.predict(batch.images, batch.image_sizes)


@pytest.mark.parametrize("scales", [(2.0, 0.5), (1.0, 0.5), (2.0,)])
def test_lw_detr_with_other_levels_equals_the_library(scales: tuple[float, ...]) -> None:
    detector = build("lw-detr", scales=scales)
    assert detector.ports["neck"].strides == tuple(int(16 / scale) for scale in scales)
    compare(detector, make_batch((2, 1)))


@each
def test_without_auxiliary_losses_the_last_layer_and_the_proposals_remain(name: str) -> None:
    detector = build(name, auxiliary_loss=False)
    layer = ["loss_ce", "loss_bbox", "loss_giou"]
    assert list(detector.losses) == [*layer, *(f"{term}_enc" for term in layer)]
    compare(detector, make_batch((2, 1)))


@each
def test_layers_behind_the_last_output_are_listed_as_untrained(name: str) -> None:
    detector = build(name, outputs=(1, 2))
    detector.model.train()
    sum(own_losses(detector, run_stages(detector, make_batch((2, 1)))).values()).backward()  # type: ignore[union-attr]
    without = {n for n, p in detector.model.named_parameters() if p.requires_grad and p.grad is None}
    assert without == set(detector.optional)
    assert any("layer.2." in n for n in without)


@each
@pytest.mark.parametrize("outputs", [(), (3, 2), (0, 3), (2, 4)])
def test_outputs_are_rising_layers_of_the_body(name: str, outputs: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=rf'^{name}: option "outputs.*rising numbers of layers, of 1 to 3'):
        build(name, outputs=outputs)


@pytest.mark.parametrize("scales", [(), (3.0,)])
def test_scales_are_those_that_the_library_knows(scales: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match=r'^lw-detr: option "scales.*of 0.5, 1 and 2'):
        build("lw-detr", scales=scales)
