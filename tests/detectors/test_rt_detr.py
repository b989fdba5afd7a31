"""RT-DETR and RT-DETRv2: denoising, padding, and the library's habits that the stages keep out of the way."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kdflow.detectors.hf_parts import to_labels
from kdflow.errors import UsageError
from kdflow.graph.passes.fakes import Fakes
from tests.detectors.hf_tiny import CANVAS, COUNTS, assert_same_gradients, both, build, make_batch, own_losses
from tests.detectors.staging import run_call, run_stages


@pytest.fixture(scope="module")
def detector() -> Any:
    return build("rt-detr")


@pytest.mark.parametrize("counts", COUNTS)
def test_version_2_equals_the_library_bit_for_bit(counts: tuple[int, ...]) -> None:
    detector = build("rt-detr", version=2, dropout=0.1)
    assert type(detector.model).__name__ == "RTDetrV2ForObjectDetection"
    values, output, library = both(detector, make_batch(counts), training=True)
    own = own_losses(detector, values)
    assert {key: torch.equal(own[key], value) for key, value in output.loss_dict.items()} == dict.fromkeys(
        output.loss_dict, True
    )
    total = sum(own.values())
    total.backward()
    output.loss.backward()
    assert torch.equal(total, output.loss)
    assert_same_gradients(detector.model, library)


@pytest.mark.parametrize("options", [{"denoising": 0}, {"encoder_width": 64}, {"expansion": 0.5}, {"norm": "frozen"}])
def test_variants_equal_the_library_bit_for_bit(options: dict[str, Any]) -> None:
    detector = build("rt-detr", **options)
    values, output, _ = both(detector, make_batch((2, 1)), training=True)
    own = own_losses(detector, values)
    assert list(own) == list(output.loss_dict)
    assert all(torch.equal(own[key], output.loss_dict[key]) for key in own)


def test_losses_are_named_and_ordered_as_in_the_library(detector: Any) -> None:
    values, output, _ = both(detector, make_batch((2, 1)), training=True)
    assert list(detector.losses) == list(output.loss_dict)
    assert values["losses.loss_vfl_dn_2"] > 0


def test_ports_carry_no_denoising_queries_but_the_library_puts_them_first(detector: Any) -> None:
    values, output, _ = both(detector, make_batch((2, 1)), training=True)
    noise = values["denoising.noise"]
    assert noise.count == output.denoising_meta_values["dn_num_split"][0] == 12
    for key in ("states", "logits", "boxes", "references"):
        assert all(x.shape[1] == 10 for x in values[f"decoder.{key}"])
        assert all(x.shape[1] == 12 for x in values["decoder.denoised"][key])
    assert torch.equal(values["decoder.logits"][-1], output.logits[:, 12:])
    assert torch.equal(values["decoder.denoised"]["boxes"][-1], output.pred_boxes[:, :12])
    assert torch.equal(values["decoder.states"][0], output.intermediate_hidden_states[:, 0, 12:])


def test_only_denoising_and_dropout_draw_random_numbers(detector: Any) -> None:
    assert [name for name, stage in detector.stages.items() if stage.stochastic] == ["denoising"]
    dropping = build("rt-detr", dropout=0.1, denoising=0)
    assert [name for name, stage in dropping.stages.items() if stage.stochastic] == ["encoder", "decoder"]
    detector.model.train()
    batch = make_batch((2, 1))
    for name, stage in detector.stages.items():
        before = torch.random.get_rng_state()
        values = run_stages(detector, batch)
        torch.random.set_rng_state(before)
        stage.run(**{argument: values[port] for argument, port in stage.reads.items()})
        assert torch.equal(before, torch.random.get_rng_state()) != stage.stochastic, name


def test_no_denoising_in_evaluation_and_without_objects(detector: Any) -> None:
    detector.model.eval()
    assert run_stages(detector, make_batch((2, 1)))["denoising.noise"] is None
    detector.model.train()
    values = run_stages(detector, make_batch((0, 0)))
    assert values["denoising.noise"] is None
    assert values["decoder.denoised"] is None


def test_images_that_do_not_fill_the_canvas_are_refused_with_the_reason(detector: Any) -> None:
    for sizes in ([(64, 70), CANVAS], [(64, 70), (64, 70)]):
        batch = make_batch((1, 1), sizes)
        with pytest.raises(UsageError, match=r"rt-detr reads padding as picture .* fill the canvas of 96 x 128"):
            run_stages(detector, batch)
        with pytest.raises(UsageError, match="multiple of 32"):
            detector.predict(batch.images, batch.image_sizes)


def test_the_encoder_keeps_its_input_maps(detector: Any) -> None:
    detector.model.eval()
    values = run_stages(detector, make_batch())
    projected = detector.stages["projection"].run(values["backbone"])["maps"]
    assert all(torch.equal(a, b) for a, b in zip(values["encoder.inputs"], projected))
    assert not torch.equal(values["encoder.inputs"][-1], values["neck"][-1])


def test_foreign_queries_never_see_the_denoising_part(detector: Any) -> None:
    detector.model.train()
    values = run_stages(detector, make_batch((2, 1)))
    queries = {key: x[:, :7] for key, x in values["decoder.queries"].items()}
    together = run_call(detector, "decoder", values, queries=queries)
    alone = run_call(detector, "decoder", values, {"denoising": False}, queries=queries)
    for a, b in zip(together["logits"], alone["logits"]):
        torch.testing.assert_close(a, b)
    noise = values["denoising.noise"]
    mask = noise.mask_for(7)
    assert mask.shape == (19, 19)
    assert torch.equal(mask[:12, :12], noise.mask[:12, :12])
    assert bool((mask[12:, :12] == -torch.inf).all())
    assert bool((mask[:, 12:] == 0).all())


def test_references_alone_place_the_queries_as_anchors_do(detector: Any) -> None:
    detector.model.eval()
    values = run_stages(detector, make_batch())
    own = values["decoder.queries"]
    torch.testing.assert_close(own["references"], own["anchors"].sigmoid())
    found = run_call(detector, "decoder", values, queries={"content": own["content"], "references": own["references"]})
    torch.testing.assert_close(found["boxes"][-1], values["decoder.boxes"][-1], atol=1e-4, rtol=1e-4)


def test_references_are_the_boxes_that_each_layer_starts_from(detector: Any) -> None:
    detector.model.eval()
    values = run_stages(detector, make_batch())
    assert torch.equal(values["decoder.references"][0], values["decoder.queries"]["references"])
    for reference, box in zip(values["decoder.references"][1:], values["decoder.boxes"]):
        assert torch.equal(reference, box)
        assert not reference.requires_grad


def test_queries_are_the_best_encoder_tokens(detector: Any) -> None:
    detector.model.eval()
    values = run_stages(detector, make_batch())
    best = values["encoder.all_logits"].amax(-1).topk(10, dim=1).indices
    assert torch.equal(values["encoder.indices"], best)
    rows = best.unsqueeze(-1).expand(-1, -1, 5)
    assert torch.equal(values["encoder.logits"][0], values["encoder.all_logits"].gather(1, rows))
    assert torch.equal(values["encoder.boxes"][0], values["decoder.queries"]["references"])


def test_targets_are_boxes_divided_by_the_image_size() -> None:
    labels = to_labels([torch.tensor([[10.0, 20.0, 30.0, 60.0]])], [torch.tensor([3])], [(80, 100)])
    torch.testing.assert_close(labels[0]["boxes"], torch.tensor([[0.2, 0.5, 0.2, 0.5]]))
    assert labels[0]["class_labels"].tolist() == [3]


def test_options_that_contradict_each_other_are_reported_in_words() -> None:
    with pytest.raises(UsageError, match="RTDetrForObjectDetection refuses these options"):
        build("rt-detr", d_model=30)


def test_shape_inference_leaves_nothing_in_the_library_s_caches(detector: Any) -> None:
    fakes, tapped = Fakes(), []
    maps = [torch.zeros(1, 32, side, side) for side in (36, 18, 9)]  # a size that no other test has
    stage = fakes.stages(detector)["encoder"]
    with fakes.active(), torch.no_grad():
        hook = stage.encoder.register_forward_hook(lambda *call: tapped.append(call[-1]))
        stage(fakes.value(maps))
        hook.remove()
    assert tapped, "the library's encoder ran on fake tensors, as it does where a method taps inside of it"
    real = detector.stages["encoder"].run(maps)
    assert {type(value) for value in real["maps"]} == {torch.Tensor}
    key = {"height": 9, "width": 9, "embed_dim": 32, "temperature": 10000, "device": maps[0].device, "dtype": torch.float32}
    codes = type(detector.model.model.encoder.aifi[0].position_embedding)._cached_build_2d_sinusoidal_position_embedding
    assert codes(**key) is codes(**key), "real passes still find what they kept"
