"""Faster R-CNN as stages: what torchvision computes, and what a method may rewire."""

from __future__ import annotations

import copy

import pytest
import torch

from kdflow.errors import DataError, UsageError
from kdflow.functional.box_forms import decode_deltas
from kdflow.ports import DETECTORS, Detector
from tests.detectors.library import assert_exact, assert_same_detections, make_batch
from tests.detectors.staging import run_call, run_stages

CLASSES = ("disc", "square", "star")
FAMILY = DETECTORS.get("faster-rcnn")


def tiny(seed: int = 0, **options: object) -> Detector:
    torch.manual_seed(seed)
    return FAMILY.build(CLASSES, **{**FAMILY.tiny, **options})


@pytest.mark.parametrize(
    ("counts", "sizes"),
    [
        ((3, 2), ((64, 96), (91, 64))),
        ((2, 0), ((64, 96), (91, 64))),
        ((0, 1), ((64, 96), (91, 64))),
        ((0, 0), ((64, 64), (96, 64))),
        ((1, 4), ((96, 96), (96, 96))),
    ],
    ids=["ragged", "one image empty", "one box", "all images empty", "full canvas"],
)
def test_a_training_step_is_the_librarys_bit_for_bit(
    counts: tuple[int, int], sizes: tuple[tuple[int, int], ...]
) -> None:
    assert_exact(tiny(), make_batch(counts, sizes), offset=1)


def test_a_timm_backbone_with_frozen_norms_is_exact_too() -> None:
    detector = tiny(backbone="timm:mobilenetv3_small_050", norm="frozen")
    assert_exact(detector, make_batch(), offset=1)


def test_detections_are_the_librarys() -> None:
    assert_same_detections(tiny(), make_batch(), offset=1)


def test_predict_leaves_the_mode_as_it_was() -> None:
    detector = tiny()
    detector.model.train()
    detector.model.rpn.eval()
    batch = make_batch()
    detector.predict(batch.images, batch.image_sizes)
    assert detector.model.training
    assert detector.model.roi_heads.training
    assert not detector.model.rpn.training


def test_labels_are_zero_based_and_the_background_is_last() -> None:
    detector, batch = tiny(), make_batch()
    detector.model.train()
    values = run_stages(detector, batch)
    positive, labels = values["roi.positive"], values["roi.labels"]
    assert positive.any()
    assert (labels[positive] < len(CLASSES)).all()
    assert (labels[~positive] == len(CLASSES)).all()
    assert torch.equal(values["roi.negative"], ~positive)
    matched = torch.cat(values["roi.matched_boxes"])
    ground_truth = {tuple(b.tolist()): int(x) for b, x in zip(torch.cat(batch.boxes), torch.cat(batch.labels))}
    assert [ground_truth[tuple(b.tolist())] for b in matched[positive]] == labels[positive].tolist()
    library = detector.model.roi_heads.box_predictor(values["roi.embedding"])
    assert torch.equal(values["roi.logits"][:, -1], library[0][:, 0])
    assert torch.equal(values["roi.deltas"][:, :4], library[1][:, 4:8])


def test_sampled_anchors_are_marked() -> None:
    detector, batch = tiny(), make_batch()
    labels = torch.cat(run_stages(detector, batch)["rpn.labels"], dim=1)
    assert ((labels >= 0).sum(1) == FAMILY.tiny["rpn_samples"]).all()
    assert (labels == 1).any()


def test_anchors_know_what_they_are_to_predict() -> None:
    detector, batch = tiny(), make_batch()
    values = run_stages(detector, batch)
    deltas, labels = (torch.cat(values[f"rpn.{name}"], dim=1) for name in ("targets", "labels"))
    anchors, ground_truth = torch.cat(values["rpn.anchors"]), torch.cat(batch.boxes)
    assert deltas.shape == (*labels.shape, 4)
    for image, row in zip(*(labels == 1).nonzero(as_tuple=True), strict=True):
        box = decode_deltas(deltas[image, row][None], anchors[row][None])
        assert float((ground_truth - box).abs().amax(1).min()) < 1e-3


def test_a_teacher_samples_in_evaluation_mode_from_its_own_number_of_proposals() -> None:
    detector, batch = tiny(), make_batch()
    detector.model.train()
    training = run_stages(detector, batch)
    detector.model.eval()
    values = run_stages(detector, batch)
    assert max(len(p) for p in values["rpn.proposals"]) <= FAMILY.tiny["rpn_post_nms"][1]
    assert max(len(p) for p in training["rpn.proposals"]) > FAMILY.tiny["rpn_post_nms"][1]
    assert values["roi.positive"].any()


def test_sampling_leaves_the_proposals_alone() -> None:
    detector, batch = tiny(), make_batch()
    values = run_stages(detector, batch)
    before = [p.clone() for p in values["rpn.proposals"]]
    detector.stages["roi.sample"].run(proposals=values["rpn.proposals"], boxes=batch.boxes, labels=batch.labels)
    assert all(torch.equal(a, b) for a, b in zip(before, values["rpn.proposals"]))


def test_the_roi_call_takes_foreign_boxes() -> None:
    student, teacher, batch = tiny(1), tiny(2), make_batch()
    ours, theirs = run_stages(student, batch), run_stages(teacher, batch)
    shared = run_call(teacher, "roi", theirs, boxes=ours["roi.boxes"])
    pooled = teacher.stages["roi.pool"].run(maps=theirs["neck"], boxes=ours["roi.boxes"], image_sizes=batch.image_sizes)
    heads = teacher.model.roi_heads
    expected = heads.box_predictor(heads.box_head(pooled["features"]))[0]
    assert torch.equal(shared["logits"], expected.roll(-1, 1))
    assert len(shared["logits"]) == len(ours["roi.logits"])


def test_the_roi_call_keeps_its_own_boxes_on_foreign_maps() -> None:
    student, teacher, batch = tiny(1), tiny(2), make_batch()
    ours, theirs = run_stages(student, batch), run_stages(teacher, batch)
    crossed = run_call(teacher, "roi", theirs, features=ours["neck"])
    assert len(crossed["logits"]) == len(theirs["roi.logits"])
    assert not torch.equal(crossed["logits"], theirs["roi.logits"])


def test_the_rpn_call_proposes_on_foreign_maps() -> None:
    student, teacher, batch = tiny(1), tiny(2), make_batch()
    ours, theirs = run_stages(student, batch), run_stages(teacher, batch)
    crossed = run_call(teacher, "rpn", theirs, features=ours["neck"])
    expected, _ = teacher.model.rpn.head(ours["neck"])
    assert torch.equal(crossed["logits"][0].flatten(1), expected[0].permute(0, 2, 3, 1).flatten(1))
    assert not torch.equal(crossed["proposals"][0][:5], theirs["rpn.proposals"][0][:5])


def test_sampling_other_proposals_follows_the_ground_truth() -> None:
    detector, batch = tiny(), make_batch((2, 2))
    values = run_stages(detector, batch)
    sampled = run_call(detector, "roi.sample", values, proposals=[b + 1 for b in batch.boxes])
    assert [len(b) for b in sampled["boxes"]] == [4, 4]
    assert sampled["positive"].sum() >= 4


def test_gradient_crosses_a_frozen_teacher_to_the_student() -> None:
    student, teacher, batch = tiny(1), tiny(2), make_batch()
    teacher.model.requires_grad_(False).eval()
    ours, theirs = run_stages(student, batch), run_stages(teacher, batch)
    crossed = run_call(teacher, "roi", theirs, features=ours["neck"], boxes=ours["roi.boxes"])
    crossed["logits"].square().sum().backward()
    assert all(p.grad is None for p in teacher.model.parameters())
    assert student.model.backbone.body.conv1.weight.grad.abs().sum() > 0


def test_proposals_carry_no_gradient() -> None:
    values = run_stages(tiny(), make_batch())
    assert not any(b.requires_grad for b in [*values["rpn.proposals"], *values["roi.boxes"]])
    assert values["roi.embedding"].requires_grad
    assert torch.equal(values["roi.embedding"], values["roi.fc2"].relu())


def test_boxes_without_area_are_refused_with_their_place() -> None:
    batch = make_batch()
    batch.boxes[1][0, 2] = batch.boxes[1][0, 0]
    with pytest.raises(DataError, match=r"image 1 of the batch has the ground-truth box \["):
        run_stages(tiny(), batch)


def test_layers_below_the_trainable_ones_are_frozen() -> None:
    body = tiny(trainable_layers=2).model.backbone.body
    trained = {name.split(".")[0] for name, p in body.named_parameters() if p.requires_grad}
    assert trained == {"layer3", "layer4"}
    assert all(p.requires_grad for p in tiny().model.parameters())


def test_the_state_dict_is_the_librarys() -> None:
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    with torch.device("meta"):
        ours = FAMILY.build(CLASSES).model.state_dict()
        theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bakbone": "resnet18"}, 'no option "bakbone". Did you mean "backbone"'),
        ({"neck": "wide"}, 'option "neck": input should be a valid integer'),
        ({"backbone": "resnet19"}, 'no backbone "resnet19"'),
        ({"backbone": "timm:mobilenet_v9"}, 'timm has no model "mobilenet_v9"'),
        ({"anchor_sizes": ((8,), (16,))}, "sides for 2 levels, the pyramid has 5"),
        ({"trainable_layers": 6}, 'option "trainable_layers": input should be less than or equal to 5, got 6'),
        ({"pretrained_backbone": "IMAGENET9"}, 'pretrained_backbone "IMAGENET9" is no file and no weight name'),
        ({"backbone": "timm:vit_tiny_patch16_224"}, "needed are strides"),
    ],
)
def test_wrong_options_are_explained(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        tiny(**options)
    assert message in str(raised.value)


def test_a_deep_copy_stands_alone() -> None:
    detector, batch = tiny(), make_batch()
    twin = copy.deepcopy(detector)
    with torch.no_grad():
        next(twin.model.parameters()).zero_()
    assert twin.stages["backbone"].run.body.conv1.weight.abs().sum() == 0
    assert twin.stages["rpn.proposals"].run.owner is twin.model.rpn
    assert detector.stages["backbone"].run.body.conv1.weight.abs().sum() > 0
    assert run_stages(twin, batch)["neck"][0].shape == run_stages(detector, batch)["neck"][0].shape
