"""GFL and ATSS as stages: losses, assignment, export. GFL's numbers are compared in ``tests/goldens``."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from kdflow.errors import UsageError
from kdflow.functional import boxes as bx
from kdflow.functional.dense_losses import distribution_focal, edge_distances, varifocal
from kdflow.functional.divergences import quality_focal
from kdflow.ports import DETECTORS
from tests.detectors.library import make_batch
from tests.detectors.staging import run_call, run_stages

CLASSES = ("disc", "square", "star")
NAMES = ("gfl", "atss")
each = pytest.mark.parametrize("name", NAMES)


def tiny(name: str, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    family = DETECTORS.get(name)
    return family.build(CLASSES, **{**family.tiny, **options})


@each
@pytest.mark.parametrize("counts", [(3, 2), (2, 0), (0, 0)])
def test_losses_are_finite_and_train_every_parameter(name: str, counts: tuple[int, int]) -> None:
    detector = tiny(name)
    values = run_stages(detector, make_batch(counts))
    losses = {n: values[p] for n, p in detector.losses.items()}
    assert all(torch.isfinite(v) and v.dim() == 0 for v in losses.values())
    sum(losses.values()).backward()
    grads = {n: p.grad for n, p in detector.model.named_parameters()}
    assert all(g is not None and torch.isfinite(g).all() for g in grads.values())
    if sum(counts) == 0:
        assert losses["loss_cls"] > 0
        assert all(v == 0 for n, v in losses.items() if n != "loss_cls")


@each
def test_detections_equal_the_models_own_forward(name: str) -> None:
    detector, batch = tiny(name), make_batch()
    model = copy.deepcopy(detector.model).eval()
    with torch.no_grad():
        expected = model([image[:, :h, :w] for image, (h, w) in zip(batch.images, batch.image_sizes)])
        detector.model.eval()
        staged = run_stages(detector, batch)["detections"]
    predicted = detector.predict(batch.images, batch.image_sizes)
    assert sum(len(one["boxes"]) for one in expected) > 0
    for wanted, one, other in zip(expected, predicted, staged):
        assert all(torch.equal(one[k], v) and torch.equal(other[k], v) for k, v in wanted.items())


@each
def test_detections_obey_their_limits(name: str) -> None:
    batch = make_batch()
    detector = tiny(name, score=0.004, detections=7, candidates=20)
    for one, (height, width) in zip(detector.predict(batch.images, batch.image_sizes), batch.image_sizes):
        assert 0 < len(one["boxes"]) <= 7
        assert (one["scores"] > 0.004).all()
        assert (one["scores"].diff() <= 0).all()
        assert (one["boxes"] >= 0).all()
        assert (one["boxes"][:, 2] <= width).all()
        assert (one["boxes"][:, 3] <= height).all()


def test_a_module_in_training_mode_says_that_it_only_detects() -> None:
    with pytest.raises(RuntimeError, match="in evaluation mode only"):
        tiny("gfl").model.train()([torch.rand(3, 64, 64)])


@each
def test_positives_lie_inside_their_objects_and_padding_is_left_out(name: str) -> None:
    detector, batch = tiny(name), make_batch(sizes=((64, 96), (60, 40)))
    values = run_stages(detector, batch)
    indices, positive = torch.cat(values["assign.indices"], 1), torch.cat(values["assign.positive"], 1)
    weights, labels = torch.cat(values["assign.weights"], 1), torch.cat(values["assign.labels"], 1)
    centers = bx.centers(torch.cat(values["head.priors"]))
    for image, boxes in enumerate(batch.boxes):
        own = positive[image]
        matched = boxes[indices[image][own]]
        assert ((centers[own] > matched[:, :2]) & (centers[own] < matched[:, 2:])).all()
        assert torch.equal(labels[image][own], batch.labels[image][indices[image][own]])
        assert torch.bincount(indices[image][own], minlength=len(boxes)).max() <= 9 * 5
    first = values["assign.weights"][0][1].view(values["neck"][0].shape[-2:])
    assert first.tolist() == [[1.0] * 8 + [0.0] * 4] * 8
    assert (weights[0] == 1).all()
    assert (labels[weights == 0] == -1).all()


@pytest.mark.parametrize(
    "options", [{"cls_loss": "vfl"}, {"box_weight": "iou"}, {"beta": 1.0}, {"loss_weights": (2.0, 2.0, 0.25)}]
)
def test_loss_options_change_their_term_alone(options: dict[str, Any]) -> None:
    batch = make_batch()
    plain, changed = (run_stages(tiny("gfl", **o), batch) for o in ({}, options))
    differ = {
        n
        for n in ("loss_cls", "loss_bbox", "loss_dfl")
        if not torch.equal(plain[f"losses.{n}"], changed[f"losses.{n}"])
    }
    assert differ == ({"loss_bbox", "loss_dfl"} if "box_weight" in options else {"loss_cls"})


@each
@pytest.mark.parametrize("block", [0, 1, 2])
def test_the_head_resumes_from_a_block(name: str, block: int) -> None:
    detector, batch = tiny(name), make_batch()
    values = run_stages(detector, batch)
    held = {b: values["neck"] if block == 0 else values[f"head.{b}_tower.{block}"] for b in ("cls", "box")}
    again = run_call(detector, "head", values, {"from_block": block}, cls_tower=held["cls"], box_tower=held["box"])
    for port in ("logits", "boxes", "distribution" if name == "gfl" else "centerness"):
        assert all(torch.equal(a, b) for a, b in zip(again[port], values[f"head.{port}"]))


def test_boxes_of_gfl_are_centres_plus_expected_distances() -> None:
    detector, batch = tiny("gfl"), make_batch()
    values = run_stages(detector, batch)
    level, cell = 1, 7
    chances = values["head.distribution"][level][0, cell].view(4, 17).softmax(-1)
    left, top, right, bottom = ((chances * torch.arange(17)).sum(-1) * 16).tolist()
    y, x = divmod(cell, values["neck"][level].shape[-1])
    expected = torch.tensor([x * 16 - left, y * 16 - top, x * 16 + right, y * 16 + bottom])
    torch.testing.assert_close(values["head.boxes"][level][0, cell], expected)


def test_atss_losses_follow_their_formulas() -> None:
    detector, batch = tiny("atss"), make_batch((1,), ((96, 96),))
    values = run_stages(detector, batch)
    logits = torch.cat(values["head.logits"], 1)[0]
    positive = torch.cat(values["assign.positive"], 1)[0]
    target = torch.zeros_like(logits)
    target[positive, batch.labels[0][0]] = 1
    chance = logits.sigmoid()
    right = torch.where(target == 1, chance, 1 - chance)
    focal = -torch.where(target == 1, 0.25, 0.75) * (1 - right) ** 2 * right.log()
    count = positive.sum()
    torch.testing.assert_close(values["losses.loss_cls"], focal.sum() / count)
    box = batch.boxes[0].expand(int(count), 4)
    centers = bx.centers(torch.cat(values["head.priors"]))[positive]
    near, far = centers - box[:, :2], box[:, 2:] - centers
    central = (torch.minimum(near, far) / torch.maximum(near, far)).prod(1).sqrt()
    decoded = torch.cat(values["head.boxes"], 1)[0][positive]
    lost = (central * (1 - bx.giou(decoded, box))).sum() / central.sum().clamp(min=1)
    torch.testing.assert_close(values["losses.loss_bbox"], 2 * lost)
    own = torch.cat(values["head.centerness"], 1)[0][positive]
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(own, central, reduction="sum") / count
    torch.testing.assert_close(values["losses.loss_centerness"], entropy)


def test_the_distribution_focal_loss_is_least_at_the_two_neighbours() -> None:
    distance = torch.tensor([2.25])
    chances = torch.full((1, 6), 1e-9, dtype=torch.float64)
    chances[0, 2], chances[0, 3] = 0.75, 0.25
    logits = chances.log().requires_grad_()
    distribution_focal(logits, distance.double()).sum().backward()
    assert logits.grad.abs().max() < 1e-6
    points, boxes = torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0, 0.5, 40.0, 3.0]])
    torch.testing.assert_close(edge_distances(points, boxes, 16), torch.tensor([[0.0, 0.5, 15.9, 2.0]]))


def test_varifocal_and_quality_focal_at_their_fixed_points() -> None:
    logits = torch.tensor([0.3, -1.2])
    negative = 0.75 * logits.sigmoid() ** 2 * torch.nn.functional.softplus(logits)
    torch.testing.assert_close(varifocal(logits, torch.zeros(2)), negative)
    half = torch.full((2,), 0.5)
    expected = 0.5 * torch.nn.functional.binary_cross_entropy_with_logits(logits, half, reduction="none")
    torch.testing.assert_close(varifocal(logits, half), expected)
    assert (quality_focal(logits, logits.sigmoid(), 2.0) == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 5}, "5 groups of at least 2 channels do not divide a neck of 16"),
        ({"groups": 16}, "16 groups of at least 2 channels"),
        ({"bins": 0}, 'option "bins": input should be greater than 0, got 0'),
        ({"tower_blocks": 0}, 'option "tower_blocks": input should be greater than 0'),
        ({"cls_loss": "focal"}, 'option "cls_loss"'),
    ],
)
def test_wrong_options_are_explained(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        tiny("gfl", **options)
    assert message in str(raised.value)
