"""D-FINE: all layers in both modes, edge distributions, and the library's own pairing of layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.detectors.hf_tiny import assert_same_gradients, both, build, make_batch, own_losses
from tests.detectors.staging import run_stages


@pytest.mark.parametrize("options", [{"denoising": 0}, {"decoder_layers": 2, "denoising": 0}, {"encoder_width": 64}])
def test_variants_equal_the_library_bit_for_bit(options: dict[str, Any]) -> None:
    detector = build("d-fine", **options)
    values, output, library = both(detector, make_batch((2, 1)), training=True)
    own = own_losses(detector, values)
    assert list(own) == list(output.loss_dict)
    assert all(torch.equal(own[key], output.loss_dict[key]) for key in own)
    sum(own.values()).backward()
    output.loss.backward()
    assert_same_gradients(detector.model, library)
    silent = {
        n for n, p in detector.model.named_parameters() if p.requires_grad and p.grad is not None and not p.grad.any()
    }
    assert set(detector.optional) <= silent
    assert bool(detector.optional) == (detector.model.config.num_denoising == 0)


def test_scores_of_the_layer_that_the_losses_skip_train_what_is_unused_otherwise() -> None:
    detector = build("d-fine", denoising=0)
    detector.model.train()
    logits = run_stages(detector, make_batch((2, 1)))["decoder.logits"]
    ((port, skipped),) = {entry for entries in detector.optional.values() for entry in entries}
    assert port == "decoder.logits"
    for index, scores in enumerate(logits):
        detector.model.zero_grad()
        scores.square().sum().backward(retain_graph=True)
        gradients = [detector.model.get_parameter(name).grad for name in detector.optional]
        reached = [gradient is not None and bool(gradient.any()) for gradient in gradients]
        assert any(reached) == (index == skipped), index
        assert all(reached) or index != skipped


def test_evaluation_offers_every_layer_and_leaves_the_mode_alone() -> None:
    detector = build("d-fine", dropout=0.1)
    with torch.no_grad():
        values, output, _ = both(detector, make_batch((2, 1)), training=False)
        again = run_stages(detector, make_batch((2, 1)))
    assert output.intermediate_logits.shape[1] == 1
    assert len(values["decoder.logits"]) == len(values["decoder.boxes"]) == 3
    assert torch.equal(values["decoder.logits"][-1], output.logits)
    assert torch.equal(values["decoder.logits"][0], again["decoder.logits"][0])
    assert not any(module.training for module in detector.model.modules())


def test_layers_are_those_of_the_training_pass() -> None:
    detector = build("d-fine", denoising=0)
    values, output, _ = both(detector, make_batch((2, 1)), training=True)
    for layer in range(3):
        assert torch.equal(values["decoder.logits"][layer], output.intermediate_logits[:, layer + 1])
        assert torch.equal(values["decoder.boxes"][layer], output.intermediate_reference_points[:, layer + 1])
        assert torch.equal(values["decoder.distribution"][layer], output.intermediate_predicted_corners[:, layer])
    assert torch.equal(values["decoder.first"][0], output.intermediate_logits[:, 0])
    assert values["decoder.distribution"][0].shape == (2, 10, 36)
    assert detector.ports["decoder.distribution"].form == "distribution"
