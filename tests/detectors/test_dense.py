"""RetinaNet, FCOS and SSD as stages: what torchvision computes, and what a method may rewire."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch.nn import functional

from kdflow.errors import DataError, UsageError
from kdflow.ports import DETECTORS
from tests.detectors.library import assert_exact, assert_same_detections, make_batch
from tests.detectors.staging import run_call, run_stages

CLASSES = ("disc", "square", "star")
SIZED = {"min_size": 64, "max_size": 128}
TINY = {name: DETECTORS.get(name).tiny for name in ("retinanet", "fcos", "ssd")}
OFFSET = {"retinanet": 0, "fcos": 0, "ssd": 1}
TOWERS = ("retinanet", "fcos")
each = pytest.mark.parametrize("name", TINY)


def tiny(name: str, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return DETECTORS.get(name).build(CLASSES, **{**TINY[name], **options})


def batch_for(name: str, counts: tuple[int, int] = (3, 2), seed: int = 0) -> Any:
    """SSD resizes to a fixed square, so its images have that size; the others are ragged."""
    return make_batch(counts, ((96, 96), (96, 96)) if name == "ssd" else ((64, 96), (91, 64)), seed=seed)


@each
@pytest.mark.parametrize(
    "counts", [(3, 2), (2, 0), (0, 1), (0, 0)], ids=["objects", "one image empty", "one box", "all images empty"]
)
def test_a_training_step_is_the_librarys_bit_for_bit(name: str, counts: tuple[int, int]) -> None:
    assert_exact(tiny(name), batch_for(name, counts), OFFSET[name])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("retinanet", {"neck": 64, "head_norm": "group", "box_loss": "giou", "p6_from": "c5"}),
        ("fcos", {"first_level": 2, "tower_blocks": 2}),
        ("fcos", {"backbone": "timm:mobilenetv3_small_050", "norm": "frozen"}),
        ("ssd", {"backbone": "timm:mobilenetv3_small_050"}),
    ],
)
def test_variants_are_exact_too(name: str, options: dict[str, Any]) -> None:
    assert_exact(tiny(name, **options), batch_for(name), OFFSET[name])


@pytest.mark.parametrize("backbone", ["resnet18", "timm:mobilenetv3_small_050"])
def test_a_level_that_the_head_does_not_read_changes_nothing_else(backbone: str) -> None:
    detector = tiny("fcos", backbone=backbone, first_level=2, head_from=3)
    batch = make_batch((3, 2), ((64, 96), (91, 64)), divisor=detector.size_divisor)
    assert batch.images.shape[-2:] == (128, 128)
    assert_same_detections(detector, batch, 0)
    assert_exact(detector, batch, 0)
    values = run_stages(detector, batch)
    assert [m.shape[-1] for m in values["neck"]] == [32, 16, 8, 4, 2, 1]
    assert all(torch.equal(a, b) for a, b in zip(values["head.maps"], values["neck"][1:], strict=True))
    space: dict[str, Any] = {}
    exec(detector.source().text(), space)
    space["build"]().load_state_dict(detector.model.state_dict())


def test_the_head_cannot_begin_below_the_pyramid() -> None:
    with pytest.raises(UsageError, match="the head cannot read P2 where the pyramid begins with P3"):
        tiny("fcos", head_from=2)


def test_smaller_pixels_give_a_smaller_pyramid() -> None:
    detector = tiny("fcos", first_level=2, head_from=3)
    batch = make_batch((3, 2), ((128, 128), (128, 128)))
    values = run_stages(detector, batch)
    low = run_call(detector, "backbone", values, pixels=values["normalize.pixels"][..., ::2, ::2])
    sizes = [m.shape for m in low["neck"]]
    assert sizes[:-1] == [m.shape for m in values["neck"][1:]]


@pytest.mark.parametrize("counts", [(3, 2), (1, 0)])
def test_ssd_on_unequal_images_is_the_librarys_on_a_padded_batch(counts: tuple[int, int]) -> None:
    """The library's transform makes every image a square; asked to pad instead, it agrees bit for bit."""
    detector, batch = tiny("ssd"), make_batch(counts, ((64, 96), (91, 64)))
    detector.model.transform.size_divisible = 32
    assert_exact(detector, batch, OFFSET["ssd"])
    detector.model.transform.resize = lambda image, target=None: (image, target)
    assert_same_detections(detector, batch, OFFSET["ssd"])


def test_ssd_on_vgg_is_the_librarys() -> None:
    detector = tiny("ssd", backbone="vgg16", size=300)
    batch = make_batch((2,), ((300, 300),), divisor=1)
    assert batch.images.shape[-1] == 300
    assert_exact(detector, batch, offset=1)
    with torch.device("meta"):
        library = torchvision.models.detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=4)
    shapes = {key: value.shape for key, value in library.state_dict().items()}
    assert {key: value.shape for key, value in detector.model.state_dict().items()} == shapes
    ours, theirs = detector.model.anchor_generator, library.anchor_generator
    assert (ours.aspect_ratios, ours.scales, ours.steps) == (theirs.aspect_ratios, theirs.scales, theirs.steps)
    assert detector.model.transform.image_std == library.transform.image_std
    space: dict[str, Any] = {}
    exec(detector.source().text(), space)
    with torch.device("meta"):
        assert {key: value.shape for key, value in space["build"]().state_dict().items()} == shapes


@each
def test_detections_are_the_librarys(name: str) -> None:
    assert_same_detections(tiny(name), batch_for(name), OFFSET[name])


@pytest.mark.parametrize(("name", "maker"), [("retinanet", "retinanet_resnet50_fpn"), ("fcos", "fcos_resnet50_fpn")])
def test_the_default_state_dict_is_the_librarys(name: str, maker: str) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models.detection, maker)(weights=None, weights_backbone=None, num_classes=3)
        ours = DETECTORS.get(name).build(CLASSES)
    shapes = {key: value.shape for key, value in theirs.state_dict().items()}
    assert {key: value.shape for key, value in ours.model.state_dict().items()} == shapes


@each
def test_the_assignment_is_described_in_our_words(name: str) -> None:
    detector, batch = tiny(name), batch_for(name)
    values = run_stages(detector, batch)
    positive = torch.cat(values["assign.positive"], 1)
    labels, weights = torch.cat(values["assign.labels"], 1), torch.cat(values["assign.weights"], 1)
    matched, indices = torch.cat(values["assign.matched_boxes"], 1), torch.cat(values["assign.indices"], 1)
    assert positive.any()
    assert (matched[~positive] == 0).all()
    assert (labels[(~positive) & (weights == 1)] == len(CLASSES)).all()
    assert (labels[weights == 0] == -1).all()
    for image in range(len(batch.boxes)):
        own = positive[image]
        assert torch.equal(matched[image][own], batch.boxes[image][indices[image][own]])
        assert torch.equal(labels[image][own], batch.labels[image][indices[image][own]])
    if name == "retinanet":
        assert (weights == 0).any()


@each
def test_decoded_boxes_are_those_of_the_library(name: str) -> None:
    detector, batch = tiny(name), batch_for(name)
    values = run_stages(detector, batch)
    deltas, priors = values["head.deltas"][0][1], values["head.priors"][0]
    coder = detector.model.box_coder
    expected = coder.decode(deltas, priors) if name == "fcos" else coder.decode_single(deltas, priors)
    assert torch.equal(values["head.boxes"][0][1], expected)


@pytest.mark.parametrize("name", TOWERS)
def test_towers_offer_each_block_before_its_activation(name: str) -> None:
    detector, batch = tiny(name), batch_for(name)
    values = run_stages(detector, batch)
    layers = detector.model.head.classification_head.conv
    flat = [layer for block in layers for layer in block] if name == "retinanet" else list(layers)
    features, seen = values["neck"][0], []
    for layer in flat:
        if isinstance(layer, torch.nn.ReLU):
            seen.append(features)
        features = layer(features)
    assert len(seen) == 4
    for i, expected in enumerate(seen):
        assert torch.equal(values[f"head.cls_tower.{i + 1}"][0], expected)
    assert torch.equal(values["head.cls_tower"][0], features)
    assert torch.equal(values["head.box_tower"][1], functional.relu(values["head.box_tower.4"][1]))


@pytest.mark.parametrize("name", TOWERS)
@pytest.mark.parametrize("block", [0, 2, 4])
def test_the_head_resumes_from_a_block_on_its_own_features(name: str, block: int) -> None:
    detector, batch = tiny(name), batch_for(name)
    values = run_stages(detector, batch)
    held = {b: values["neck"] if block == 0 else values[f"head.{b}_tower.{block}"] for b in ("cls", "box")}
    again = run_call(detector, "head", values, {"from_block": block}, cls_tower=held["cls"], box_tower=held["box"])
    for port in ("logits", "deltas", "boxes"):
        assert all(torch.equal(a, b) for a, b in zip(again[port], values[f"head.{port}"]))


@pytest.mark.parametrize("name", TOWERS)
def test_gradient_crosses_a_frozen_teachers_head_and_leaves_out_our_last_blocks(name: str) -> None:
    student, teacher, batch = tiny(name, 1), tiny(name, 2), batch_for(name)
    teacher.model.requires_grad_(False).eval()
    ours, theirs = run_stages(student, batch), run_stages(teacher, batch)
    held = {b: ours[f"head.{b}_tower.3"] for b in ("cls", "box")}
    crossed = run_call(teacher, "head", theirs, {"from_block": 3}, cls_tower=held["cls"], box_tower=held["box"])
    sum(x.square().sum() for x in [*crossed["logits"], *crossed["deltas"]]).backward()
    assert all(p.grad is None for p in teacher.model.parameters())
    trained = {n: p.grad for n, p in student.model.head.classification_head.conv.named_parameters()}
    last = "3." if name == "retinanet" else "9."
    assert all((g is None) == n.startswith((last, "10.")) for n, g in trained.items())
    assert student.model.head.classification_head.cls_logits.weight.grad is None


@each
def test_the_head_call_takes_foreign_maps(name: str) -> None:
    student, teacher, batch = tiny(name, 1), tiny(name, 2), batch_for(name)
    ours, theirs = run_stages(student, batch), run_stages(teacher, batch)
    crossed = run_call(teacher, "head", theirs, features=ours["neck"])
    expected = teacher.model.head(ours["neck"])["cls_logits"]
    found = torch.cat(crossed["logits"], 1)
    assert torch.equal(found, expected.roll(-1, -1) if name == "ssd" else expected)


@each
def test_the_assign_call_needs_other_boxes_alone(name: str) -> None:
    detector, batch = tiny(name), batch_for(name)
    values = run_stages(detector, batch)
    boxes = [
        torch.tensor([[8.0, 8.0, 40.0, 40.0], [20.0, 20.0, 60.0, 60.0], [4.0, 4.0, 90.0, 90.0], [1.0, 1.0, 9.0, 9.0]])
    ] * 2
    again = run_call(detector, "assign", {**values, "targets.checked_labels": [torch.arange(4)] * 2}, boxes=boxes)
    positive = torch.cat(again["positive"], 1)
    assert positive.any()
    assert torch.equal(positive[0], positive[1])
    assert torch.equal(torch.cat(again["labels"], 1)[positive], torch.cat(again["indices"], 1)[positive])


@each
def test_the_criterion_judges_foreign_outputs_and_assignments(name: str) -> None:
    detector, batch = tiny(name), batch_for(name)
    values = run_stages(detector, batch)
    outputs = [n for n in ("logits", "deltas", "centerness") if f"head.{n}" in detector.ports]
    same = run_call(detector, "criterion", values, **{n: values[f"head.{n}"] for n in outputs})
    assert all(torch.equal(same[n], values[f"losses.{n}"]) for n in detector.losses)
    nobody = [torch.full_like(i, -1) for i in values["assign.indices"]]
    changed = run_call(detector, "criterion", values, indices=nobody)
    assert changed["bbox_regression"] == 0
    assert not torch.equal(changed["classification"], values["losses.classification"])


@each
def test_boxes_without_area_are_refused(name: str) -> None:
    batch = batch_for(name)
    batch.boxes[0][1, 3] = batch.boxes[0][1, 1]
    with pytest.raises(DataError, match="image 0 of the batch"):
        run_stages(tiny(name), batch)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("retinanet", {"anchor_sizes": ((8,), (16,))}, "sides for 2 levels, the pyramid has 5"),
        ("retinanet", {"anchor_sizes": ((8,), (16,), (32,), (64,), (96, 128))}, "every level needs equally many"),
        ("retinanet", {"head_norm": "group"}, "neck must be a multiple of 32 from 64 on, not 16"),
        ("fcos", {"neck": 48}, "neck must be a multiple of 32"),
        ("ssd", {"backbone": "vgg16", "size": 320}, "made for size 300 or 512, not 320"),
        ("ssd", {"backbone": "vgg19"}, 'no backbone "vgg19"'),
        ("fcos", {"first_level": 4}, 'option "first_level"'),
    ],
)
def test_wrong_options_are_explained(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        tiny(name, **options)
    assert message in str(raised.value)


def test_a_block_that_the_towers_lack_is_refused() -> None:
    detector, batch = tiny("fcos"), batch_for("fcos")
    values = run_stages(detector, batch)
    with pytest.raises(UsageError, match=r"blocks 1 to 4 \(0: their input\), not 5"):
        run_call(detector, "head", values, {"from_block": 5}, cls_tower=values["neck"], box_tower=values["neck"])
