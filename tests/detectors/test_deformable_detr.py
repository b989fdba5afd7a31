"""Deformable DETR: its variants, padding, queries of other models, and the published recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdflow.detectors.hf_parts import to_labels
from kdflow.errors import UsageError
from kdflow.ports import DETECTORS
from tests.detectors.hf_tiny import CANVAS, assert_same_gradients, both, build, make_batch, own_losses, weighted
from tests.detectors.staging import run_call, run_stages

RAGGED = [(64, 70), CANVAS]
VARIANTS: dict[str, dict[str, Any]] = {
    "refined": {"two_stage": False},
    "plain": {"two_stage": False, "box_refine": False},
    "last layer only": {"auxiliary_loss": False},
    "one level": {"levels": 1, "two_stage": False},
    "two levels": {"levels": 2},
    "five levels": {"levels": 5},
    "one layer": {"decoder_layers": 1},
}


@pytest.fixture(scope="module")
def detector() -> Any:
    return build("deformable-detr")


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_equal_the_library_bit_for_bit(variant: str) -> None:
    detector = build("deformable-detr", dropout=0.1, **VARIANTS[variant])
    values, output, library = both(detector, make_batch((2, 1), RAGGED), training=True)
    assert torch.equal(values["decoder.logits"][-1], output.logits)
    assert torch.equal(values["decoder.boxes"][-1], output.pred_boxes)
    own, theirs = own_losses(detector, values), weighted(output, detector.model.config)
    assert list(own) == list(theirs)
    assert all(torch.equal(own[key], theirs[key]) for key in own)
    total = sum(own.values())
    total.backward()
    output.loss.backward()
    assert_same_gradients(detector.model, library)
    assert (len(detector.optional) == 12) == detector.model.config.two_stage


@pytest.mark.parametrize("variant", ["plain", "refined"])
def test_one_stage_variants_offer_points_as_references(variant: str) -> None:
    detector = build("deformable-detr", **VARIANTS[variant])
    detector.model.eval()
    values = run_stages(detector, make_batch())
    assert detector.ports["decoder.references"].form == "points"
    assert values["decoder.references"][0].shape == (2, 10, 2)
    assert values["decoder.references"][2].shape == (2, 10, 2 if variant == "plain" else 4)
    assert "encoder.logits" not in detector.ports


def test_the_twelve_tensors_of_the_proposal_head_get_no_gradient(detector: Any) -> None:
    assert len(detector.optional) == 12
    assert {name.split(".")[1] for name in detector.optional} == {"enc_output", "enc_output_norm", "decoder"}


def test_padding_is_neither_seen_nor_matched(detector: Any) -> None:
    detector.model.eval()
    batch = make_batch((1, 2), RAGGED)
    values = run_stages(detector, batch)
    assert bool((values["normalize.pixels"][0, :, 64:] == 0).all())
    assert bool((values["normalize.pixels"][0, :, :, 70:] == 0).all())
    layout = values["encoder.layout"]
    blind = values["decoder.tokens"].clone()
    blind[~layout.levels.inside] += 5
    moved = detector.stages["decoder"].run(values["decoder.queries"], blind, layout)
    assert all(torch.equal(a, b) for a, b in zip(moved["states"], values["decoder.states"]))


def test_the_backbone_is_trainable_although_the_library_freezes_it(detector: Any) -> None:
    assert all(p.requires_grad for p in detector.model.parameters())
    from transformers import DeformableDetrForObjectDetection

    fresh = DeformableDetrForObjectDetection(detector.model.config)
    assert not any(p.requires_grad for p in fresh.model.backbone.parameters())


def test_two_stage_queries_may_be_the_boxes_of_a_model_of_another_width(detector: Any) -> None:
    other = build("deformable-detr", seed=4, d_model=64)
    for one in (detector, other):
        one.model.eval()
    batch = make_batch((2, 1))
    values, foreign = run_stages(detector, batch), run_stages(other, batch)
    found = run_call(detector, "decoder", values, queries={"references": foreign["decoder.references"][0]})
    assert torch.equal(found["references"][0], foreign["decoder.references"][0])
    own = run_call(detector, "decoder", values, queries={"references": values["decoder.queries"]["references"]})
    torch.testing.assert_close(own["boxes"][-1], values["decoder.boxes"][-1], atol=1e-4, rtol=1e-4)
    exact = run_call(detector, "decoder", values, queries={"anchors": values["decoder.queries"]["anchors"]})
    assert torch.equal(exact["boxes"][-1], values["decoder.boxes"][-1])


def test_one_stage_references_are_made_by_the_receiver_unless_given() -> None:
    detector = build("deformable-detr", two_stage=False)
    detector.model.eval()
    values = run_stages(detector, make_batch())
    queries = values["decoder.queries"]
    derived = run_call(detector, "decoder", values, queries={k: queries[k] for k in ("content", "position")})
    assert torch.equal(derived["logits"][-1], values["decoder.logits"][-1])
    moved = run_call(detector, "decoder", values, queries={**queries, "references": queries["references"] * 0.5})
    assert not torch.equal(moved["boxes"][-1], values["decoder.boxes"][-1])
    with pytest.raises(UsageError, match="reads query content and position"):
        run_call(detector, "decoder", values, queries={"references": queries["references"]})


def test_heads_are_a_call_of_their_own(detector: Any) -> None:
    detector.model.eval()
    values = run_stages(detector, make_batch())
    found = run_call(detector, "heads", values, states=[s * 2 for s in values["decoder.states"]])
    assert torch.equal(found["logits"][1], detector.model.class_embed[1](values["decoder.states"][1] * 2))


def test_published_criterion_doubles_the_class_term_and_trains_the_proposals() -> None:
    library, published = build("deformable-detr"), build("deformable-detr", criterion="published")
    published.model.load_state_dict(library.model.state_dict())
    batch = make_batch((2, 1), RAGGED)
    library.model.train()
    published.model.train()
    plain = own_losses(library, run_stages(library, batch))
    values = run_stages(published, batch)
    full = own_losses(published, values)
    for name, value in plain.items():
        assert torch.equal(full[name], value * 2 if name.startswith("loss_ce") else value), name
    assert set(full) - set(plain) == {"loss_ce_enc", "loss_bbox_enc", "loss_giou_enc"}
    assert not published.optional
    sum(full.values()).backward()
    assert all(p.grad is not None for p in published.model.parameters())


def test_published_proposal_loss_by_its_formula() -> None:
    detector = build("deformable-detr", criterion="published")
    detector.model.train()
    batch = make_batch((2, 1), RAGGED)
    values = run_stages(detector, batch)
    (logits,), (boxes,) = values["encoder.logits"], values["encoder.boxes"]
    labels, (pairs,) = to_labels(batch.boxes, batch.labels, batch.image_sizes), values["match.proposals"]
    goal = torch.zeros_like(logits)
    distance = torch.zeros(())
    for image, (token, target) in enumerate(pairs):
        goal[image, token, 0] = 1
        distance += (boxes[image, token] - labels[image]["boxes"][target]).abs().sum()
    score = logits.sigmoid()
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, goal, reduction="none")
    focal = torch.where(goal == 1, 0.25 * (1 - score) ** 2, 0.75 * score**2) * entropy
    torch.testing.assert_close(values["losses.loss_ce_enc"], 2 * focal.sum() / 3)
    torch.testing.assert_close(values["losses.loss_bbox_enc"], 5 * distance / 3)


def test_one_stage_published_criterion_has_no_proposals() -> None:
    detector = build("deformable-detr", criterion="published", two_stage=False)
    assert not any(name.endswith("_enc") for name in detector.losses)


def test_widths_that_the_group_norms_refuse_are_reported() -> None:
    with pytest.raises(
        UsageError, match=r'deformable-detr: option "d_model": input should be a multiple of 32, got 48'
    ):
        build("deformable-detr", d_model=48)
    with pytest.raises(UsageError, match="refuses these options"):
        build("deformable-detr", box_refine=False)


def test_weights_of_other_classes_choose_the_same_queries(detector: Any, tmp_path: Path) -> None:
    detector.model.save_pretrained(tmp_path)
    narrowed = DETECTORS.get("deformable-detr").build(("elk", "bee"), weights=str(tmp_path))
    assert narrowed.classes == ("elk", "bee")
    batch = make_batch((0, 0))
    for one in (detector, narrowed):
        one.model.eval()
    with torch.no_grad():
        whole, part = run_stages(detector, batch), run_stages(narrowed, batch)
    torch.testing.assert_close(part["encoder.logits"][0], whole["encoder.logits"][0][..., :2])
    for own, other in zip(part["decoder.logits"], whole["decoder.logits"], strict=True):
        torch.testing.assert_close(own, other[..., [4, 1]])
