"""DETR, Conditional DETR and DAB-DETR: where they differ from one another and from the library's flags."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kdflow.detectors.hf_parts import to_labels
from kdflow.errors import UsageError
from tests.detectors.hf_tiny import CANVAS, assert_same_gradients, both, build, make_batch, own_losses, weighted
from tests.detectors.staging import run_call, run_stages

RAGGED = [(64, 70), CANVAS]
NORMED = ("detr", "conditional-detr")
SINGLE = (*NORMED, "dab-detr")


@pytest.mark.parametrize("name", NORMED)
def test_the_published_pass_equals_the_library_without_its_flag(name: str) -> None:
    detector = build(name, layer_norms="last", auxiliary_loss=False, dropout=0.1)
    values, output, library = both(detector, make_batch((2, 1), RAGGED), training=True)
    assert torch.equal(values["decoder.logits"][-1], output.logits)
    own, theirs = own_losses(detector, values), weighted(output, detector.model.config)
    assert list(own) == ["loss_ce", "loss_bbox", "loss_giou"]
    assert all(torch.equal(own[key], theirs[key]) for key in own)
    sum(own.values()).backward()
    output.loss.backward()
    assert_same_gradients(detector.model, library)


@pytest.mark.parametrize("name", NORMED)
def test_layer_losses_of_the_published_pass_are_those_of_normed_states(name: str) -> None:
    detector = build(name, layer_norms="last")
    values, output, _ = both(detector, make_batch((2, 1)), training=True)
    decoder = detector.model.model.decoder
    raw: list[torch.Tensor] = []
    for layer in decoder.layers:
        layer.register_forward_hook(
            lambda module, given, result: raw.append(result if isinstance(result, torch.Tensor) else result[0])
        )
    detector.model.train()
    run_stages(detector, make_batch((2, 1)))
    for state, before in zip(values["decoder.states"], raw):
        torch.testing.assert_close(state, decoder.layernorm(before))
    own = own_losses(detector, values)
    assert torch.equal(own["loss_ce"], output.loss_dict["loss_ce"])
    assert len(own) == 9


@pytest.mark.parametrize("name", NORMED)
def test_norms_after_every_layer_are_another_model(name: str) -> None:
    every, last = build(name, layer_norms="every"), build(name, layer_norms="last")
    last.model.load_state_dict(every.model.state_dict())
    batch = make_batch()
    for detector in (every, last):
        detector.model.eval()
    a, b = (run_stages(detector, batch)["decoder.logits"][-1] for detector in (every, last))
    assert (a - b).abs().max() > 1e-4


def test_scores_are_softmax_in_detr_and_sigmoid_in_the_others() -> None:
    forms = {}
    for name in SINGLE:
        detector = build(name)
        detector.model.eval()
        logits = run_stages(detector, make_batch())["decoder.logits"][-1]
        forms[name] = (detector.ports["decoder.logits"].form, logits.shape[-1])
    assert forms == {"detr": ("softmax", 6), "conditional-detr": ("sigmoid", 5), "dab-detr": ("sigmoid", 5)}


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("queries", [10, 12, 30])
def test_padding_is_not_attended_whatever_the_number_of_queries(name: str, queries: int) -> None:
    detector = build(name, queries=queries)
    detector.model.eval()
    values = run_stages(detector, make_batch((1, 2), RAGGED))
    layout, tokens = values["encoder.layout"], values["decoder.tokens"].clone()
    assert not bool(layout.inside.all())
    tokens[~layout.inside] += 5
    moved = detector.stages["decoder"].run(values["decoder.queries"], tokens, layout)
    assert all(torch.equal(a, b) for a, b in zip(moved["states"], values["decoder.states"]))


@pytest.mark.parametrize("options", [{"auxiliary_loss": False}, {"patterns": 2}, {"attention": "eager"}])
def test_dab_variants_equal_the_library_bit_for_bit(options: dict[str, Any]) -> None:
    detector = build("dab-detr", dropout=0.1, **options)
    values, output, library = both(detector, make_batch((2, 1), RAGGED), training=True)
    assert torch.equal(values["decoder.boxes"][-1], output.pred_boxes)
    own, theirs = own_losses(detector, values), weighted(output, detector.model.config)
    assert all(torch.equal(own[key], theirs[key]) for key in own)
    sum(own.values()).backward()
    output.loss.backward()
    assert_same_gradients(detector.model, library)


def test_dab_queries_may_be_the_boxes_of_a_model_of_another_width() -> None:
    detector, other = build("dab-detr"), build("dab-detr", seed=3, d_model=64)
    detector.model.eval()
    other.model.eval()
    batch = make_batch()
    values, foreign = run_stages(detector, batch), run_stages(other, batch)
    found = run_call(detector, "decoder", values, queries=foreign["decoder.queries"])
    torch.testing.assert_close(found["references"][0], foreign["decoder.queries"]["references"])
    assert not torch.equal(found["logits"][-1], values["decoder.logits"][-1])


def test_conditional_references_come_from_the_position_in_the_receiving_model() -> None:
    detector = build("conditional-detr")
    detector.model.eval()
    values = run_stages(detector, make_batch())
    expected = detector.model.model.decoder.ref_point_head(values["decoder.queries"]["position"]).sigmoid()
    assert all(torch.equal(points, expected) for points in values["decoder.references"])


@pytest.mark.parametrize("name", ["conditional-detr"])
def test_published_criterion_doubles_the_class_term(name: str) -> None:
    library, published = build(name), build(name, criterion="published")
    batch = make_batch((2, 1))
    library.model.eval()
    published.model.eval()
    plain, full = (own_losses(d, run_stages(d, batch)) for d in (library, published))
    assert all(
        torch.equal(full[key], value * 2 if key.startswith("loss_ce") else value) for key, value in plain.items()
    )


def test_detr_layer_losses_by_the_librarys_criterion_on_each_layer() -> None:
    from kdflow.detectors.detr import make_criterion

    detector = build("detr", layer_norms="last")
    detector.model.eval()
    batch = make_batch((2, 1))
    values = run_stages(detector, batch)
    labels = to_labels(batch.boxes, batch.labels, batch.image_sizes)
    for layer, suffix in enumerate(("_0", "_1", "")):
        outputs = {"logits": values["decoder.logits"][layer], "pred_boxes": values["decoder.boxes"][layer]}
        expected = make_criterion(detector.model.config)(outputs, labels)
        assert torch.equal(values[f"losses.loss_ce{suffix}"], expected["loss_ce"])
        assert torch.equal(values[f"losses.loss_bbox{suffix}"], expected["loss_bbox"] * 5)


@pytest.mark.parametrize("name", ["detr", "conditional-detr", "dab-detr"])
def test_learned_queries_start_apart_where_asked(name: str) -> None:
    near, far = (build(name, uneven=False, queries=200, **more) for more in ({}, {"query_spread": 1.0}))
    key = next(key for key in far.model.state_dict() if key.endswith(("position_embeddings.weight", "point_embeddings.weight")))
    spread = [detector.model.state_dict()[key].std().item() for detector in (near, far)]
    assert spread == [pytest.approx(0.02, abs=0.005), pytest.approx(1, abs=0.1)]
    others = [{k: v for k, v in d.model.state_dict().items() if k != key} for d in (near, far)]
    assert all(torch.equal(value, others[1][k]) for k, value in others[0].items())


@pytest.mark.parametrize("name", ["detr", "conditional-detr", "dab-detr", "deformable-detr"])
def test_untrained_weights_have_the_deviation_asked_for(name: str) -> None:
    detector = build(name, uneven=False, init_std=0.125)
    weights = [v for k, v in detector.model.named_parameters() if "decoder.layers.0" in k and k.endswith("fc1.weight")]
    assert [w.std().item() for w in weights] == [pytest.approx(0.125, rel=0.1)]
    assert detector.model.config.init_std == 0.125


def test_a_model_that_learns_no_queries_spreads_none() -> None:
    with pytest.raises(UsageError, match="query_spread: this model takes its queries from the encoder"):
        build("deformable-detr", query_spread=1.0)
