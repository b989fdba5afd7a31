"""What holds for every detector of the transformers library."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_origin

import pytest
import torch
import transformers
from pydantic import AfterValidator
from safetensors.torch import save_file

from kdflow import api
from kdflow.detectors.hf_parts import to_labels
from kdflow.detectors.hf_stages import network_of
from kdflow.errors import UsageError
from kdflow.graph.compile import compile_method
from kdflow.graph.passes.fakes import Fakes
from kdflow.ports import BATCH_PORTS, DETECTORS, Detector
from kdflow.spec.resolve import parse_method
from kdflow.standard_ports import STANDARD_PORTS
from tests.detectors.hf_tiny import (
    CANVAS,
    CLASSES,
    COUNTS,
    FAMILIES,
    MASKED,
    NAMES,
    assert_same_gradients,
    both,
    build,
    make_batch,
    own_losses,
    shapes,
    weighted,
)
from tests.detectors.staging import run_call, run_stages

RAGGED = [(64, 70), CANVAS]
LAYERED = ("states", "logits", "boxes", "references")
each = pytest.mark.parametrize("name", NAMES)
CONVOLVED = [name for name in NAMES if "backbone" in FAMILIES[name].options.model_fields]
each_convolved = pytest.mark.parametrize("name", CONVOLVED)
"""Families above a ResNet or a timm model; the others bring a body of their own."""


@pytest.fixture(scope="module")
def built() -> dict[str, Any]:
    return {name: build(name) for name in NAMES}


@each
@pytest.mark.parametrize("counts", COUNTS)
def test_training_losses_and_gradients_equal_the_library_bit_for_bit(name: str, counts: tuple[int, ...]) -> None:
    detector = build(name, dropout=0.1)
    batch = make_batch(counts, RAGGED if name in MASKED else None)
    values, output, library = both(detector, batch, training=True)
    own, theirs = own_losses(detector, values), weighted(output, detector.model.config)
    for key, value in theirs.items():
        assert torch.equal(own[key], value), key
    absent = set(own) - set(theirs)
    assert absent == {key for key in own if "_dn_" in key and sum(counts) == 0}
    assert all(own[key] == 0 for key in absent)
    total = sum(own.values())
    assert torch.equal(total, output.loss)
    total.backward()
    output.loss.backward()
    assert_same_gradients(detector.model, library)


@each
def test_buffers_after_training_equal_the_library(name: str) -> None:
    detector = build(name)
    _, _, library = both(detector, make_batch(), training=True)
    theirs = library.state_dict()
    for key, value in detector.model.state_dict().items():
        assert torch.equal(value, theirs[key]), key


@each
@pytest.mark.parametrize("counts", COUNTS)
def test_evaluation_equals_the_library_bit_for_bit(name: str, counts: tuple[int, ...], built: dict[str, Any]) -> None:
    detector = built[name]
    batch = make_batch(counts, RAGGED if name in MASKED else None)
    with torch.no_grad():
        values, output, _ = both(detector, batch, training=False)
    assert torch.equal(values["decoder.logits"][-1], output.logits)
    assert torch.equal(values["decoder.boxes"][-1], output.pred_boxes)
    theirs = weighted(output, detector.model.config)
    every = getattr(output, "intermediate_logits", None)
    last_alone = every is not None and every.shape[1] == 1  # all that D-FINE's library computes in evaluation
    for key in detector.stages["criterion"].run.names if last_alone else theirs:
        assert torch.equal(own_losses(detector, values)[key], theirs[key]), key


@each
def test_mixed_precision_equals_the_library_bit_for_bit(name: str, built: dict[str, Any]) -> None:
    detector = built[name]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        values, output, _ = both(detector, make_batch((2, 1)), training=False)
    assert output.logits.dtype is torch.bfloat16
    assert torch.equal(values["decoder.logits"][-1], output.logits)
    assert torch.equal(values["decoder.boxes"][-1], output.pred_boxes)


@each
def test_detections_are_those_of_the_librarys_image_processor(name: str, built: dict[str, Any]) -> None:
    detector = built[name]
    batch = make_batch((1, 2), RAGGED if name in MASKED else None)
    detector.model.train()
    values, output, _ = both(detector, batch, training=False)
    stage = detector.stages["postprocess"].run
    processor = getattr(transformers, stage.processor)()
    outputs = SimpleNamespace(logits=output.logits, pred_boxes=output.pred_boxes)
    expected = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=batch.image_sizes)
    detector.model.train()
    predicted = detector.predict(batch.images, batch.image_sizes)
    for theirs, own, again in zip(expected, values["detections"], predicted):
        for key in ("boxes", "scores", "labels"):
            assert torch.equal(theirs[key], own[key])
            assert torch.equal(theirs[key], again[key])
        assert own["labels"].max() < len(CLASSES)
        assert not again["boxes"].requires_grad


@each
def test_predict_leaves_every_modules_mode_as_it_was(name: str, built: dict[str, Any]) -> None:
    detector = built[name]
    detector.model.train()
    frozen = next(network_of(detector.model.model).children())
    frozen.eval()
    before = [m.training for m in detector.model.modules()]
    batch = make_batch()
    detector.predict(batch.images, batch.image_sizes)
    assert [m.training for m in detector.model.modules()] == before
    assert True in before
    assert False in before


@each
def test_it_is_a_detector_whose_ports_are_as_declared(name: str, built: dict[str, Any]) -> None:
    detector = built[name]
    assert isinstance(detector, Detector)
    assert (detector.family, detector.library, detector.classes) == ("transformer", "transformers", CLASSES)
    detector.model.eval()
    with torch.no_grad():
        values = run_stages(detector, make_batch((2, 1)))
    for port, spec in detector.ports.items():
        value = values[port]
        assert spec.stage in detector.stages
        assert spec.key in detector.stages[spec.stage].gives
        if port in STANDARD_PORTS:
            assert (spec.kind, spec.node) == (STANDARD_PORTS[port].kind, STANDARD_PORTS[port].node[1])
        if spec.channels:
            assert spec.channels == tuple(x.shape[1 if spec.kind.stack == "levels" else -1] for x in value)
        if spec.strides:
            sizes = [tuple(x.shape[-2:]) for x in value]
            assert sizes == [tuple(-(-side // stride) for side in CANVAS) for stride in spec.strides]
        if spec.length is not None:
            assert len(value) == spec.length
        if spec.kind.axes is not None:
            for entry in value if spec.kind.stack else [value]:
                assert entry.dim() == len(spec.kind.axes), port


@each
def test_stages_read_ports_of_earlier_stages(name: str, built: dict[str, Any]) -> None:
    detector = built[name]
    order = list(detector.stages)
    for stage, described in detector.stages.items():
        for port in described.reads.values():
            if port not in BATCH_PORTS:
                assert order.index(detector.ports[port].stage) < order.index(stage), (stage, port)


@each
def test_stages_own_all_parameters_of_the_model_and_no_others(name: str, built: dict[str, Any]) -> None:
    detector = built[name]
    held = {id(p) for stage in detector.stages.values() for p in stage.run.parameters()}
    assert held == {id(p) for p in detector.model.parameters()}


@each
def test_parameters_without_gradient_are_listed(name: str) -> None:
    detector = build(name)
    detector.model.train()
    values = run_stages(detector, make_batch((2, 1)))
    sum(own_losses(detector, values).values()).backward()
    without = [n for n, p in detector.model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == list(detector.optional)
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in network_of(detector.model.model).parameters())


def infer(detector: Any, batch: Any) -> dict[str, Any]:
    """All ports as fake tensors, as a compiler would infer them: on a copy, in evaluation mode."""
    copied, fakes = copy.deepcopy(detector), Fakes()
    copied.model.eval()
    values = dict(fakes.value(batch.values()))
    with fakes.active(), torch.no_grad():
        for name, stage in copied.stages.items():
            inputs = {argument: values[port] for argument, port in stage.reads.items()}
            result = (stage.infer or stage.run)(**inputs, **stage.options)
            values |= {port: result[spec.key] for port, spec in copied.ports.items() if spec.stage == name}
    return values


@each
def test_inferred_shapes_are_the_real_ones_and_leave_no_fake_tensor_behind(name: str, built: dict[str, Any]) -> None:
    detector = build(name, attention="eager")
    assert set(detector.ports) - set(built[name].ports) == {"decoder.self_attention", "decoder.cross_attention"}
    batch = make_batch((2, 1))
    fake = infer(detector, batch)
    detector.model.eval()
    with torch.no_grad():
        real = run_stages(detector, batch)
    for port in detector.ports:
        assert shapes(fake[port]) == shapes(real[port]), port
    assert type(real["decoder.logits"][-1]) is torch.Tensor


@each
def test_attention_ports_are_distributions_over_what_is_attended(name: str) -> None:
    detector = build(name, attention="eager")
    detector.model.train()
    values = run_stages(detector, make_batch((2, 1)))
    for port in ("decoder.self_attention", "decoder.cross_attention"):
        for weights in values[port]:
            assert weights.shape[:3] == (2, 4, 10)
            torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 10))


@each
@pytest.mark.parametrize("training", [True, False])
def test_decoder_on_its_own_queries_repeats_itself_bit_for_bit(
    name: str, training: bool, built: dict[str, Any]
) -> None:
    detector = built[name]
    detector.model.train(training)
    values = run_stages(detector, make_batch())
    memory = values[detector.calls["decoder"].inputs["memory"]]
    for inputs in ({"queries": values["decoder.queries"]}, {"queries": values["decoder.queries"], "memory": memory}):
        again = run_call(detector, "decoder", values, **inputs)
        for key in LAYERED:
            for own, repeated in zip(values.get(f"decoder.{key}", []), again.get(key, [])):
                assert torch.equal(own, repeated)


@each
def test_decoder_takes_any_number_of_foreign_queries_and_trains_the_encoder(name: str, built: dict[str, Any]) -> None:
    detector = built[name]
    detector.model.train()
    detector.model.zero_grad()
    values = run_stages(detector, make_batch((2, 1)))
    draw = torch.Generator().manual_seed(3)
    foreign = {key: torch.rand(2, 7, x.shape[-1], generator=draw) for key, x in values["decoder.queries"].items()}
    found = run_call(detector, "decoder", values, queries=foreign)
    assert [x.shape for x in found["logits"]] == [(2, 7, values["decoder.logits"][0].shape[-1])] * 3
    assert [x.shape for x in found["boxes"]] == [(2, 7, 4)] * 3
    sum(x.sum() for x in (*found["logits"], *found["boxes"])).backward()
    memory = detector.ports[detector.calls["decoder"].inputs["memory"]].stage
    encoder = detector.stages[memory].run.parameters()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in encoder)
    selection = {id(p) for p in detector.stages["selection"].run.parameters()}
    decoder = {id(p) for s in ("decoder", "heads") if s in detector.stages for p in detector.stages[s].run.parameters()}
    for p in detector.model.parameters():
        assert p.grad is None or id(p) not in selection - decoder, "foreign queries train the own queries"


@each
def test_transformer_on_the_same_maps_repeats_itself(name: str, built: dict[str, Any]) -> None:
    detector = built[name]
    detector.model.eval()
    values = run_stages(detector, make_batch((2, 1)))
    found = run_call(detector, "transformer", values, features=values["neck"])
    assert all(torch.equal(a, b) for a, b in zip(found["logits"], values["decoder.logits"]))
    doubled = run_call(detector, "transformer", values, features=[m * 2 for m in values["neck"]])
    assert not torch.equal(doubled["logits"][-1], values["decoder.logits"][-1])
    if "encoder" in detector.calls:
        encoded = run_call(detector, "encoder", values, features=values["encoder.inputs"])
        assert all(torch.equal(a, b) for a, b in zip(encoded["memory"], values["encoder.memory"]))


@each
def test_queries_that_do_not_fit_are_refused_in_words(name: str, built: dict[str, Any]) -> None:
    detector = built[name]
    detector.model.eval()
    values = run_stages(detector, make_batch((2, 1)))
    for queries in ({}, {"content": torch.rand(2, 7, 99), "position": torch.rand(2, 7, 99)}):
        with pytest.raises(UsageError, match="this decoder"):
            run_call(detector, "decoder", values, queries=queries)


@each
def test_criterion_on_own_predictions_is_the_own_loss_and_foreign_pairs_count(name: str, built: dict[str, Any]) -> None:
    detector = built[name]
    detector.model.train()
    values = run_stages(detector, make_batch((2, 1)))
    own = {"logits": values["decoder.logits"], "boxes": values["decoder.boxes"]}
    again = run_call(detector, "criterion", values, **own)
    assert torch.equal(again["total"], values["criterion.total"])
    first = [(torch.arange(2) + 7, torch.arange(2)), (torch.arange(1) + 7, torch.arange(1))]
    moved = run_call(detector, "criterion", values, pairs=[first] * 3)
    assert moved["total"] != again["total"]
    nothing = [torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.long)] * 2
    empty = run_call(detector, "criterion", values, target_boxes=nothing[0], target_labels=nothing[1])
    assert all(empty[key] == 0 for key in empty if key.startswith(("loss_bbox", "loss_giou")))
    assert torch.isfinite(empty["total"])


SCRIPT = """
import sys, torch
for path in sys.argv[1:]:
    space = {}
    exec(open(path + "/student.py").read(), space)
    model = space["build"]().eval()
    model.load_state_dict(torch.load(path + "/student.pt"), strict=True)
    with torch.no_grad():
        found = model(torch.load(path + "/pixels.pt"))
    assert torch.equal(found.logits, torch.load(path + "/logits.pt")), path
assert not any(name.split(".")[0] == "kdflow" for name in sys.modules)
print("loaded", len(sys.argv) - 1)
"""


def test_source_builds_the_same_models_without_kdflow(tmp_path: Path, built: dict[str, Any]) -> None:
    pixels = torch.rand(1, 3, *CANVAS)
    for name, detector in built.items():
        folder = tmp_path / name
        folder.mkdir()
        detector.model.eval()
        with torch.no_grad():
            torch.save(detector.model(pixels).logits, folder / "logits.pt")
        torch.save(detector.model.state_dict(), folder / "student.pt")
        torch.save(pixels, folder / "pixels.pt")
        (folder / "student.py").write_text(detector.source().text())
    arguments = [str(tmp_path / name) for name in built]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == f"loaded {len(NAMES)}", done.stderr


def test_listing_detectors_imports_no_transformers() -> None:
    code = (
        "import sys; from kdflow.ports import DETECTORS; names = DETECTORS.names(); "
        "assert 'rt-detr' in names; assert 'transformers' not in sys.modules; print(*names)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert set(NAMES) <= set(done.stdout.split()), done.stderr


@each
def test_weights_come_from_a_folder_with_its_own_architecture_and_class_names(
    name: str, tmp_path: Path, built: dict[str, Any]
) -> None:
    detector = built[name]
    detector.model.save_pretrained(tmp_path)
    loaded = DETECTORS.get(name).build(("other",), weights=str(tmp_path))
    assert loaded.classes == CLASSES
    stored = loaded.model.state_dict()
    for key, value in detector.model.state_dict().items():
        assert torch.equal(stored[key], value), key
    batch = make_batch()
    for a, b in zip(detector.predict(batch.images, batch.image_sizes), loaded.predict(batch.images, batch.image_sizes)):
        assert torch.equal(a["boxes"], b["boxes"])


@each
def test_a_folder_that_knows_more_classes_becomes_a_detector_of_those_asked_for(name: str, tmp_path: Path) -> None:
    """As published models do that have a row per COCO category id, gaps included, and older names for some."""
    stored = ("N/A", "elk", "sofa", "ant", "N/A ", "dog", "bee")
    torch.manual_seed(0)
    donor = FAMILIES[name].build(stored, **FAMILIES[name].tiny)
    for parameter in donor.model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.05
    donor.model.config.id2label = {i: n.strip() for i, n in enumerate(stored)}
    donor.model.save_pretrained(tmp_path)
    wanted = ("ant", "couch", "dog")
    loaded = DETECTORS.get(name).build(wanted, weights=str(tmp_path))
    assert loaded.classes == wanted
    assert loaded.model.config.num_labels == 3
    donor.model.eval()
    loaded.model.eval()
    pixels = torch.rand(1, 3, *CANVAS)
    with torch.no_grad():
        before, after = donor.model(pixels).logits, loaded.model(pixels).logits
    columns = [3, 2, 5, *range(7, before.shape[-1])]
    if "encoder.indices" not in loaded.ports:  # the others choose queries by their scores, so by the classes
        torch.testing.assert_close(after, before[..., columns])
    heads = [key for key in donor.model.state_dict() if key.endswith(("class_embed.0.weight", "classifier.weight"))]
    for key in heads:
        assert torch.equal(loaded.model.state_dict()[key], donor.model.state_dict()[key][columns]), key
    space: dict[str, Any] = {}
    exec(loaded.source().text(), space)
    space["build"]().load_state_dict(loaded.model.state_dict(), strict=True)
    training = run_stages(loaded, make_batch((1, 0)))
    assert all(torch.isfinite(value) for value in own_losses(loaded, training).values())


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_come_from_a_state_dict_file(suffix: str, tmp_path: Path, built: dict[str, Any]) -> None:
    file, model = tmp_path / f"student.{suffix}", built["rt-detr"].model
    if suffix == "pt":
        torch.save(model.state_dict(), file)
    else:
        save_file({key: value.clone() for key, value in model.state_dict().items()}, file)
    loaded = build("rt-detr", seed=9, uneven=False, weights=str(file))
    assert torch.equal(loaded.model.model.enc_score_head.weight, model.model.enc_score_head.weight)
    with pytest.raises(UsageError, match="do not fit this model"):
        build("rt-detr", weights=str(file), d_model=64)


def test_weights_of_another_architecture_or_without_names_are_refused(tmp_path: Path, built: dict[str, Any]) -> None:
    model = copy.deepcopy(built["detr"].model)
    model.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match='holds a model of type "detr", this detector needs "rt_detr"'):
        build("rt-detr", weights=str(tmp_path))
    model.config.id2label = {i: f"LABEL_{i}" for i in range(5)}
    model.save_pretrained(tmp_path)
    assert DETECTORS.get("detr").build(("a", "b", "c", "d", "e"), weights=str(tmp_path)).classes == (
        "a",
        "b",
        "c",
        "d",
        "e",
    )
    with pytest.raises(UsageError, match="has 5 classes without names, but 2 are asked for: a, b"):
        DETECTORS.get("detr").build(("a", "b"), weights=str(tmp_path))


def test_backbones_by_name_widths_or_timm() -> None:
    with pytest.raises(UsageError, match='no backbone "resnet81"'):
        build("detr", backbone="resnet81")
    with pytest.raises(UsageError, match="widths and depths belong"):
        build("detr", backbone="timm:test_resnet.r160_in1k")
    detector = build("deformable-detr", backbone="timm:test_resnet.r160_in1k", widths=(), depths=())
    assert all(p.requires_grad for p in network_of(detector.model.model).parameters())
    with torch.no_grad():
        values, output, _ = both(detector, make_batch(), training=False)
    assert torch.equal(values["decoder.logits"][-1], output.logits)
    assert detector.ports["backbone"].channels == tuple(m.shape[1] for m in values["backbone"])


@each
def test_the_backbone_alone_may_be_pretrained_by_a_file_or_a_library_folder(
    name: str, tmp_path: Path, built: dict[str, Any]
) -> None:
    def loaded(source: Path) -> Any:
        return build(name, uneven=False, pretrained_backbone=str(source)).model.model

    body = network_of(built[name].model.model).state_dict()
    torch.save(body, tmp_path / "body.pt")
    found = network_of(loaded(tmp_path / "body.pt")).state_dict()
    assert all(torch.equal(found[key], value) for key, value in body.items())
    donor = transformers.AutoBackbone.from_config(built[name].model.config.backbone_config)
    donor.save_pretrained(tmp_path / "body")
    found = network_of(loaded(tmp_path / "body")).state_dict()
    assert all(torch.equal(found[key], value) for key, value in donor.state_dict().items() if key in found)
    with pytest.raises(UsageError, match="pretrained_backbone"):
        build(name, pretrained_backbone=str(tmp_path / "missing"))


@each_convolved
def test_a_timm_backbone_without_a_stem_level_gives_the_declared_strides(name: str) -> None:
    detector = build(name, backbone="timm:test_convnext2", widths=(), depths=())
    batch = make_batch()
    with torch.no_grad():
        values, _, _ = both(detector, batch, training=False)
    strides = [batch.images.shape[-1] // level.shape[-1] for level in values["backbone"]]
    assert strides == list(detector.ports["backbone"].strides)


@each_convolved
def test_a_timm_backbone_of_other_strides_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"test_vit.*maps of strides \[16, 16, 16\]; needed are strides"):
        build(name, backbone="timm:test_vit", widths=(), depths=())


def test_options_are_checked_and_listed() -> None:
    with pytest.raises(UsageError, match=r'rt-detr has no option "quieries"\. Did you mean "queries"'):
        build("rt-detr", quieries=5)
    with pytest.raises(UsageError, match='option "attention"'):
        build("rt-detr", attention="fast")
    assert {"queries", "denoising", "widths"} <= set(DETECTORS.get("rt-detr").options.model_fields)


@each
@pytest.mark.parametrize("counts", [(2, 0, 3), (0, 0), (14, 1)])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_pairs_of_all_layers_are_those_of_the_librarys_own_matcher(
    name: str, counts: tuple[int, ...], precision: torch.dtype, built: dict[str, Any]
) -> None:
    detector, batch = built[name], make_batch(counts)
    detector.model.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision is torch.bfloat16):
        values = run_stages(detector, batch)
        labels = to_labels(batch.boxes, batch.labels, batch.image_sizes)
        run = detector.stages["match"].run
        loss = getattr(run, "parts", {"match": run})["match"].loss
        predictions = zip(values["decoder.logits"], loss.clamped(values["decoder.boxes"]))
        groups = {"group_detr": 1} if hasattr(detector.model.config, "group_detr") else {}
        expected = [loss.make().matcher({"logits": x, "pred_boxes": b}, labels, **groups) for x, b in predictions]
    assert values["decoder.logits"][0].dtype is precision
    found = values["match.indices"]
    assert [[len(query) for query, _ in layer] for layer in found] == [[min(n, 10) for n in counts]] * 3
    for own, theirs in zip(found, expected, strict=True):
        for pair, wanted in zip(own, theirs, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(pair, wanted, strict=True))


@each
def test_predictions_that_are_no_numbers_are_matched_last(name: str, built: dict[str, Any]) -> None:
    detector, batch = built[name], make_batch((3, 1))
    detector.model.eval()
    with torch.no_grad():
        values = run_stages(detector, batch)
        broken = [x.clone() for x in values["decoder.logits"]]
        for scores in broken:
            scores[:, :6] = float("nan")
        pairs = run_call(detector, "criterion", values, logits=broken)["pairs"]
    assert all(bool((query >= 6).all()) for layer in pairs for query, _ in layer)


@each
def test_every_option_says_what_it_means_and_every_number_has_bounds(name: str) -> None:
    for key, field in FAMILIES[name].options.model_fields.items():
        assert field.description, key
        plain = get_origin(field.annotation) is not tuple  # whose numbers have bounds of their own
        numbers = {int, float} & {field.annotation, *(get_args(field.annotation) if plain else ())}
        bounds = [one for one in field.metadata if not isinstance(one, AfterValidator)]
        assert bool(numbers) == bool(bounds), key


@each
@pytest.mark.parametrize(
    ("option", "value"), [("queries", 0), ("dropout", 1.5), ("heads", -1), ("d_model", 0), ("decoder_layers", 0)]
)
def test_values_out_of_bounds_are_refused_by_name(name: str, option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f'^{name}: option "{option}'):
        build(name, **{option: value})


@each_convolved
@pytest.mark.parametrize("value", [(8, 16), (8, 16, 0, 8)])
def test_widths_that_are_no_four_numbers_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f'^{name}: option "widths'):
        build(name, widths=value)


HEADS = ("class_embed.0", "bbox_embed.0", "bbox_embed.layers.0", "pre_bbox_head", "lqe_layers.0")


@each
def test_heads_inside_the_decoder_stand_at_the_logits_and_its_layers_at_the_queries(name: str) -> None:
    student, teacher = build(name), build(name, seed=1)
    decoder, stage = student.model.model.decoder, student.stages["decoder"]
    inside = dict(decoder.named_modules())
    run: set[str] = set()
    handles = [m.register_forward_hook(lambda *_, path=path: run.add(path)) for path, m in inside.items()]
    student.model.train()
    values = run_stages(student, make_batch((2, 1)))
    run.clear()
    stage.run(**{argument: values[port] for argument, port in stage.reads.items()})
    for handle in handles:
        handle.remove()
    heads = [path for path in HEADS if path in run]
    assert heads or "heads" in student.stages
    expected = dict.fromkeys(heads, "transformer/logit") | {"layers.0": "transformer/query"}
    paths = {path: f"model.decoder.{path}" for path in expected}
    terms = "".join(
        f"  t{i}: {{loss: loss.squared_error, student: student@{path}, teacher: teacher@{path}, reduce: sum_of_means}}\n"
        for i, path in enumerate(paths.values())
    )
    spec = parse_method(f"kdflow: 1\nmethod: test\nterms:\n{terms}")
    detectors = {"student": student, "teacher": teacher}
    plan = compile_method(spec.resolve(), spec.document, detectors, canvas=CANVAS)
    found = {term.name: term.nodes for term in plan.terms}
    assert [found[f"kd/t{i}"] for i in range(len(expected))] == [(node,) for node in expected.values()]


@each
def test_class_scores_are_compared_by_name_wherever_they_are_ports(name: str) -> None:
    student, teacher = build(name), FAMILIES[name].build(CLASSES[::-1], **FAMILIES[name].tiny)
    ports = ["decoder.logits", *(p for p in ("encoder.logits", "encoder.all_logits") if p in student.ports)]
    terms = "".join(
        f"  t{i}: {{loss: loss.squared_error, student: student.{port}, teacher: teacher.{port}, at: transformer/logit, "
        "reduce: sum_of_means}\n"
        for i, port in enumerate(ports)
    )
    spec = parse_method(f"kdflow: 1\nmethod: test\nterms:\n{terms}")
    detectors = {"student": student, "teacher": teacher}
    plan = compile_method(spec.resolve(), spec.document, detectors, canvas=CANVAS)
    names = [f"teacher.{port}" for port in ports if student.ports[port].classes]
    assert len(names) == len(ports) - (name == "deformable-detr")  # whose tokens' first score belongs to no class
    values = plan.evaluate(make_batch((2, 1)), [*names, *(f"{n}~classes" for n in names)])
    order = [*range(len(CLASSES))[::-1]]
    for port in names:
        for raw, ours in zip(values[port], values[f"{port}~classes"]):
            tail = [*range(len(CLASSES), raw.shape[-1])]
            assert torch.equal(raw[..., order + tail], ours), port


@pytest.mark.parametrize("name", ["rt-detr", "deformable-detr", "detr"])
def test_a_compiled_plan_without_distillation_has_the_librarys_losses(name: str) -> None:
    detector = build(name, **({"denoising": 0} if name == "rt-detr" else {}))
    batch = make_batch((2, 1))
    _, output, library = both(detector, batch, training=True)
    spec = api.load("baseline")
    plan = compile_method(spec.resolve(), spec.document, {"student": detector}, canvas=CANVAS)
    plan.train()
    found = plan(batch)
    expected = {f"det/{term}": value for term, value in weighted(output, detector.model.config).items()}
    assert set(found.weighted) == set(expected)
    assert all(torch.equal(found.weighted[term], value) for term, value in expected.items())
    torch.testing.assert_close(found.total, output.loss)  # the plan adds in another order
    found.total.backward()
    output.loss.backward()
    assert_same_gradients(detector.model, library)
