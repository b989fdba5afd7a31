"""YOLOX as stages: pixels, assignment, losses, released weights, export. The original's numbers are in ``tests/goldens``."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdflow.detectors import yolox_stages as stages
from kdflow.detectors.weights import COCO, load_weights
from kdflow.detectors.yolox_model import YOLOX, Focus, cell_boxes, corners_of, decode
from kdflow.errors import UsageError
from kdflow.functional import simota as ota
from kdflow.functional.simota import SimotaRule, center_iou, simota
from kdflow.ports import DETECTORS, Batch
from tests.contracts.tiny_detectors import settled
from tests.detectors.library import make_batch
from tests.detectors.source_check import run_sources
from tests.detectors.staging import run_call, run_stages

CLASSES = ("disc", "square", "star")
CURRENT, OLDER = SimotaRule(), SimotaRule("box_or_center", 2.5)


def tiny(seed: int = 0, classes: tuple[str, ...] = CLASSES, **options: Any) -> Any:
    torch.manual_seed(seed)
    family = DETECTORS.get("yolox")
    return family.build(classes, **{**family.tiny, **options})


def one_object(box: tuple[float, ...], rule: SimotaRule = CURRENT, side: int = 128) -> Any:
    """SimOTA for one object given as centre and sides, on levels of a square picture; all cells predict themselves."""
    maps = [torch.zeros(1, 1, side // stride, side // stride) for stride in (8, 16, 32)]
    cells = torch.cat(cell_boxes(maps, (8, 16, 32)))
    places = torch.tensor([[box]])
    none = torch.zeros(1, len(cells), 2)
    one = torch.ones(1, 1, dtype=torch.long)
    return cells, simota(cells, places, one, one.bool(), stages.centered(cells)[None], none, none[..., 0], rule)


# Pictures


def test_pixels_are_blue_first_up_to_255_on_grey() -> None:
    images = torch.zeros(1, 3, 64, 64)
    images[:, :, :40, :48] = torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    pixels = run_stages(tiny(), Batch(images, [(40, 48)], [torch.zeros(0, 4)], [torch.zeros(0).long()]))
    found = pixels["normalize.pixels"][0]
    torch.testing.assert_close(found[:, 0, 0], torch.tensor([76.5, 51.0, 25.5]))
    assert (found[:, 40:] == 114).all()
    assert (found[:, :, 48:] == 114).all()
    assert images[0, 0, 63, 63] == 0, "the batch itself stays as it is"


def test_other_pictures_are_options() -> None:
    images = torch.full((1, 3, 64, 64), 0.5)
    batch = Batch(images, [(64, 32)], [torch.zeros(0, 4)], [torch.zeros(0).long()])
    images[:, 0] = 0.25
    detector = tiny(colours="rgb", pixels="0..1", padding=51)
    found = run_stages(detector, batch)["normalize.pixels"][0]
    assert found[:, 0, 0].tolist() == [0.25, 0.5, 0.5]
    torch.testing.assert_close(found[:, :, 32:], torch.full((3, 64, 32), 0.2))


def test_the_focus_stacks_phases_row_first() -> None:
    focus = Focus(4)
    seen: list[Tensor] = []
    focus.conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    phases = torch.tensor([[0.0, 2.0], [1.0, 3.0]]).repeat(2, 2)
    focus(phases.expand(1, 3, 4, 4))
    assert seen[0][0, :, 0, 0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert (seen[0] == seen[0][..., :1, :1]).all()


@pytest.mark.parametrize("options", [{}, {"depthwise": False}])
def test_detections_equal_the_models_own_forward(options: dict[str, Any]) -> None:
    detector, batch = settled(tiny(score=1e-4, **options)), make_batch()
    model = copy.deepcopy(detector.model).eval()
    with torch.no_grad():
        expected = model([image[:, :h, :w] for image, (h, w) in zip(batch.images, batch.image_sizes)])
        detector.model.eval()
        staged = run_stages(detector, batch)["detections"]
    predicted = detector.predict(batch.images, batch.image_sizes)
    assert sum(len(one["boxes"]) for one in expected) > 0
    for wanted, one, other in zip(expected, predicted, staged):
        assert all(torch.equal(one[k], v) and torch.equal(other[k], v) for k, v in wanted.items())


def test_sources_build_the_same_model_without_kdflow(tmp_path: Path) -> None:
    detectors = {"yolox": settled(tiny()), "wide": settled(tiny(width=0.0625, depthwise=False, padding=0))}
    image = make_batch(sizes=((64, 96), (96, 96))).images[0]
    found = run_sources(detectors, tmp_path, image[:, :64])
    for name, detector in detectors.items():
        expected = detector.predict(image[None, :, :64], [(64, 96)])[0]
        assert len(expected["boxes"]) > 0
        assert torch.equal(found[name]["labels"], expected["labels"])
        torch.testing.assert_close(found[name]["boxes"], expected["boxes"], rtol=1e-5, atol=1e-3)


def test_a_module_in_training_mode_says_that_it_only_detects() -> None:
    with pytest.raises(RuntimeError, match="in evaluation mode only"):
        tiny().model.train()([torch.rand(3, 64, 64)])


def test_detections_obey_their_limits() -> None:
    batch = make_batch()
    detector = settled(tiny())
    scores = torch.cat([one["scores"] for one in detector.predict(batch.images, batch.image_sizes)])
    least = float(scores.quantile(0.5))
    detector.model.score_thresh, detector.model.detections_per_img = least, 7
    for one in detector.predict(batch.images, batch.image_sizes):
        assert 0 < len(one["boxes"]) <= 7
        assert (one["scores"] >= least).all()


# Assignment


@pytest.mark.parametrize(
    ("center", "cells"),
    [((36.0, 36.0), 9), ((32.0, 32.0), 4), ((34.0, 33.0), 9), ((36.0, 32.0), 6), ((4.0, 4.0), 4)],
    ids=["centre of a cell", "corner of cells", "between", "edge of cells", "corner of the picture"],
)
def test_the_region_of_the_finest_level(center: tuple[float, float], cells: int) -> None:
    _, found = one_object((*center, 20.0, 20.0))
    assert found.near[0, 0, : 16 * 16].sum() == cells
    assert torch.equal(found.near[0].any(0), found.candidates[0])


def test_the_older_rule_adds_the_box_and_charges_for_what_is_not_both() -> None:
    cells, found = one_object((64.0, 64.0, 100.0, 20.0), OLDER)
    centers = (cells[:, :2] + cells[:, 2:]) / 2
    stride = cells[:, 2] - cells[:, 0]
    offsets = (centers - 64).abs()
    boxed, central = (offsets < torch.tensor([50.0, 10.0])).all(1), (offsets < 2.5 * stride[:, None]).all(1)
    assert torch.equal(found.candidates[0], boxed | central)
    assert torch.equal(found.near[0, 0], boxed & central)
    costs = found.cost[0, 0]
    assert (costs[boxed ^ central] >= 1e5).all()
    assert (costs[boxed & central] < 1e3).all()
    assert costs[~(boxed | central)].isinf().all()


def test_the_current_rule_never_looks_at_the_box() -> None:
    wide, narrow = (one_object((64.0, 64.0, *sides))[1] for sides in ((100.0, 20.0), (4.0, 4.0)))
    assert torch.equal(wide.candidates, narrow.candidates)


def test_costs_follow_their_formula() -> None:
    torch.manual_seed(0)
    cells = torch.cat(cell_boxes([torch.zeros(1, 1, 4, 4)], (16,)))
    boxes, labels = torch.tensor([[[30.0, 30.0, 20.0, 24.0], [40.0, 20.0, 30.0, 30.0]]]), torch.tensor([[2, 0]])
    predicted = stages.centered(cells)[None] + 4 * torch.randn(1, 16, 4)
    logits, objectness = torch.randn(1, 16, 3), torch.randn(1, 16)
    found = simota(cells, boxes, labels, labels >= 0, predicted, logits, objectness, CURRENT)
    chance = (logits.sigmoid() * objectness.sigmoid()[..., None]).sqrt()[0]
    for g in range(2):
        wanted = nn.functional.one_hot(labels[0, g], 3).float().expand(16, 3)
        entropy = nn.functional.binary_cross_entropy(chance, wanted, reduction="none").sum(1)
        iou = center_iou(boxes[0, g], predicted[0])
        cost = entropy - 3 * (iou + 1e-8).log() + 1e6 * ~found.near[0, g]
        places = found.candidates[0]
        torch.testing.assert_close(found.cost[0, g][places], cost[places], rtol=1e-4, atol=1e-4)
        expected = max(1, int(iou[places].topk(min(10, int(places.sum()))).values.sum()))
        assert found.counts[0, g] == expected


def test_a_contested_cell_goes_to_the_object_that_it_costs_least() -> None:
    cells = torch.cat(cell_boxes([torch.zeros(1, 1, 4, 4)], (16,)))
    boxes = torch.tensor([[[24.0, 24.0, 16.0, 16.0], [25.0, 25.0, 40.0, 40.0]]])
    labels = torch.zeros(1, 2, dtype=torch.long)
    predicted = stages.centered(cells)[None]
    found = simota(cells, boxes, labels, labels >= 0, predicted, torch.zeros(1, 16, 1), torch.zeros(1, 16), CURRENT)
    assert found.counts.tolist() == [[1, 1]]
    assert found.cost[0].argmin(1).tolist() == [5, 5], "both want the cell around (24, 24)"
    assert found.indices[0, 5] == 0
    assert (found.indices >= 0).sum() == 1
    assert found.own[0, 5] == 1


@pytest.mark.parametrize("place", [(-500.0, -500.0), (4000.0, 60.0)])
def test_an_object_outside_the_picture_takes_no_cell(place: tuple[float, float]) -> None:
    _, found = one_object((*place, 20.0, 20.0))
    assert (found.indices == -1).all()
    assert not found.candidates.any()


def test_images_are_assigned_alone_or_in_a_batch_alike() -> None:
    detector, batch = settled(tiny()), make_batch((4, 0, 1), ((96, 96),) * 3)
    detector.model.eval()
    values = run_stages(detector, batch)
    for i in range(3):
        alone = Batch(batch.images[i : i + 1], [(96, 96)], batch.boxes[i : i + 1], batch.labels[i : i + 1])
        own = run_stages(detector, alone)
        for level in range(3):
            assert torch.equal(own["assign.indices"][level][0], values["assign.indices"][level][i])
    assert all(not level[1].any() for level in values["assign.positive"])


def test_padding_is_background_that_is_trained_on() -> None:
    values = run_stages(tiny(), make_batch(sizes=((64, 96), (60, 40))))
    assert all((level == 1).all() for level in values["assign.weights"])


def test_a_prediction_that_overflows_leaves_the_assignment_and_the_losses_finite() -> None:
    detector, batch = tiny(l1=True), make_batch()
    values = run_stages(detector, batch)
    deltas = [level.detach().clone() for level in values["head.deltas"]]
    deltas[0][:, ::2, 2:] = 200.0
    deltas = [level.requires_grad_() for level in deltas]
    again = run_stages(detector, batch, head__deltas=deltas)
    flat = [torch.where(level.detach() > 100, -200.0, level.detach()) for level in deltas]
    expected = run_stages(detector, batch, head__deltas=flat)
    for level, other in zip(again["assign.indices"], expected["assign.indices"]):
        assert torch.equal(level, other), "boxes without bounds and boxes without sides overlap as little"
    total = torch.stack([again[port] for port in detector.losses.values()]).sum()
    total.backward()
    free = ~torch.cat(again["assign.positive"], 1)
    grads = torch.cat([level.grad for level in deltas], 1)
    assert (grads[free] == 0).all()
    assert torch.isfinite(again["losses.loss_obj"])


def test_predictions_of_another_detector_assign() -> None:
    student, teacher, batch = (settled(tiny(1)), settled(tiny(2)), make_batch())
    ours, theirs = run_stages(student, batch), run_stages(teacher, batch)
    given = {"logits": theirs["head.logits"], "objectness": theirs["head.objectness"], "decoded": theirs["head.boxes"]}
    found = run_call(student, "assign", ours, **given)
    for key in ("indices", "positive", "labels", "iou"):
        assert all(torch.equal(a, b) for a, b in zip(found[key], theirs[f"assign.{key}"])), key
    moved = [level.roll(1, 0) for level in batch.labels]
    relabelled = run_call(student, "assign", ours, labels=moved)
    expected = run_stages(student, Batch(batch.images, batch.image_sizes, batch.boxes, moved))
    assert all(torch.equal(a, b) for a, b in zip(relabelled["labels"], expected["assign.labels"]))


def test_losses_on_other_predictions_assign_by_these_unless_an_assignment_is_given() -> None:
    student, teacher, batch = (settled(tiny(1)), settled(tiny(2)), make_batch())
    ours, theirs = run_stages(student, batch), run_stages(teacher, batch)
    outputs = {name: theirs[f"head.{name}"] for name in ("logits", "objectness", "deltas")}
    found = run_call(student, "criterion", ours, **outputs)
    assert all(torch.equal(found[name], theirs[f"losses.{name}"]) for name in found)
    kept = run_call(student, "criterion", ours, **outputs, indices=ours["assign.indices"])
    assert not torch.equal(kept["loss_obj"], found["loss_obj"])


# Losses


def test_l1_targets_decode_to_their_objects() -> None:
    cells = torch.cat(cell_boxes([torch.zeros(1, 1, 4, 4)], (8,)))
    objects = torch.rand(2, 16, 4) * 30 + 5
    torch.testing.assert_close(decode(stages.encoded(objects, cells), cells), objects)
    assert torch.equal(decode(torch.zeros(1, 16, 4), cells)[0, :, :2], cells[:, :2]), "offsets count from the cell's corner"


def test_the_box_loss_of_equal_boxes_is_0_and_of_distant_ones_1_without_gradient() -> None:
    box = torch.tensor([[10.0, 10.0, 4.0, 6.0]], requires_grad=True)
    torch.testing.assert_close(center_iou(box, box.detach()), torch.ones(1))
    apart = center_iou(box, torch.tensor([[30.0, 10.0, 4.0, 4.0]]), 1e-16)
    (1 - apart.square()).sum().backward()
    assert apart.item() == 0
    assert (box.grad == 0).all()


def test_losses_follow_their_formulas() -> None:
    detector, batch = tiny(l1=True, loss_weights=(1.0, 2.0, 3.0, 4.0)), make_batch((2, 0))
    values = run_stages(detector, batch)
    positive = torch.cat(values["assign.positive"], 1)
    logits, presence = torch.cat(values["head.logits"], 1), torch.cat(values["head.objectness"], 1)
    labels, iou = torch.cat(values["assign.labels"], 1)[positive], torch.cat(values["assign.iou"], 1)[positive]
    count = positive.sum()
    entropy = nn.functional.binary_cross_entropy_with_logits
    target = nn.functional.one_hot(labels, 3) * iou[:, None]
    torch.testing.assert_close(values["losses.loss_cls"], entropy(logits[positive], target, reduction="sum") / count)
    torch.testing.assert_close(values["losses.loss_bbox"], 2 * (1 - iou**2).sum() / count)
    wanted = 3 * entropy(presence, positive.float(), reduction="sum") / count
    torch.testing.assert_close(values["losses.loss_obj"], wanted)
    boxes = stages.centered(torch.cat(values["assign.matched_boxes"], 1))
    raw = stages.encoded(boxes, torch.cat(values["head.priors"]))
    apart = (torch.cat(values["head.deltas"], 1) - raw).abs()[positive]
    torch.testing.assert_close(values["losses.loss_l1"], 4 * apart.sum() / count)


def test_without_objects_the_objectness_alone_is_trained() -> None:
    detector = tiny(l1=True)
    values = run_stages(detector, make_batch((0, 0)))
    losses = {name: float(values[port].detach()) for name, port in detector.losses.items()}
    assert losses.pop("loss_obj") > 0
    assert set(losses.values()) == {0.0}


def test_the_l1_loss_is_asked_for() -> None:
    assert list(tiny().losses) == ["loss_cls", "loss_bbox", "loss_obj"]
    assert list(tiny(l1=True).losses) == ["loss_cls", "loss_bbox", "loss_obj", "loss_l1"]


@pytest.mark.parametrize("stage", ["assign", "losses"])
def test_targets_are_made_and_compared_without_reading_the_device(stage: str) -> None:
    detector, batch = tiny(l1=True), make_batch((3, 0))
    values = run_stages(detector, batch)
    inputs = {argument: values[port] for argument, port in detector.stages[stage].reads.items()}
    with torch.device("meta"):
        moved = {key: [value.detach().to("meta") for value in levels] for key, levels in inputs.items()}
        detector.stages[stage].run(**moved)  # tensors without data: whatever asked for a value would fail


# The head and its ports


@pytest.mark.parametrize("depthwise", [True, False])
@pytest.mark.parametrize("block", [0, 1, 2])
def test_the_head_resumes_from_a_block(block: int, depthwise: bool) -> None:
    detector, batch = settled(tiny(depthwise=depthwise)), make_batch()
    detector.model.eval()
    values = run_stages(detector, batch)
    held = {b: values["head.stems"] if block == 0 else values[f"head.{b}_tower.{block}"] for b in ("cls", "box")}
    again = run_call(detector, "head", values, {"from_block": block}, cls_tower=held["cls"], box_tower=held["box"])
    for port in ("logits", "boxes", "objectness", "deltas"):
        assert all(torch.equal(a, b) for a, b in zip(again[port], values[f"head.{port}"]))


def test_scores_are_those_of_the_detections() -> None:
    detector, batch = settled(tiny()), make_batch()
    detector.model.eval()
    values = run_stages(detector, batch)
    for image, found in enumerate(values["detections"]):
        best = torch.cat(values["head.scores"], 1)[image].max()
        assert torch.equal(found["scores"][0], best)


def test_boxes_decode_from_the_corner_of_their_cell() -> None:
    values = run_stages(tiny(), make_batch())
    level, cell = 1, 7
    x, y, w, h = values["head.deltas"][level][0, cell].tolist()
    row, column = divmod(cell, values["neck"][level].shape[-1])
    wanted = torch.tensor([[(column + x) * 16, (row + y) * 16, 16 * torch.tensor(w).exp(), 16 * torch.tensor(h).exp()]])
    torch.testing.assert_close(values["head.boxes"][level][0, cell], corners_of(wanted)[0])


# Options and weights


def test_fresh_scores_start_at_a_hundredth() -> None:
    head = tiny().model.head
    for predictor in (*head.cls_preds, *head.obj_preds):
        torch.testing.assert_close(predictor.bias.sigmoid(), torch.full_like(predictor.bias, 0.01))


def test_the_variants_parts_can_be_set_one_by_one() -> None:
    plain, other = tiny(width=None), tiny(width=None, depthwise=False)
    assert isinstance(plain.model, YOLOX)
    assert plain.ports["head.stems"].channels == other.ports["head.stems"].channels == (64,) * 3
    assert plain.ports["neck"].channels == (64, 128, 256)
    assert hasattr(plain.model.head.cls_convs[0][0], "dconv")
    assert not hasattr(other.model.head.cls_convs[0][0], "dconv")
    assert len(tiny(depth=1.0).model.backbone.backbone.dark3[1].m) == 9
    assert tiny(divisor=96).size_divisor == 96


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({}, SimotaRule("center", 1.5, 10, 3.0)),
        ({"region": "box_or_center"}, SimotaRule("box_or_center", 2.5, 10, 3.0)),
        ({"radius": 2.0, "topk": 5, "iou_cost": 1.0}, SimotaRule("center", 2.0, 5, 1.0)),
    ],
)
def test_the_assignment_follows_its_options(options: dict[str, Any], rule: SimotaRule) -> None:
    assert tiny(**options).stages["assign"].run.rule == rule
    assert ota.OUTSIDE[rule.region] in (1e5, 1e6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "xl"}, 'option "variant"'),
        ({"divisor": 48}, 'option "divisor": input should be a multiple of 32, got 48'),
        ({"padding": 300}, 'option "padding": input should be less than or equal to 255'),
        ({"width": 0.01}, 'option "width": input should be greater than or equal to 0.03125'),
        ({"radius": 0}, 'option "radius": input should be greater than 0'),
        ({"loss_weights": (1.0, 5.0, 1.0)}, 'option "loss_weights.3": field required'),
    ],
)
def test_wrong_options_are_explained(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        tiny(**options)
    assert message in str(raised.value)


def released(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Stands in for the released file; returns the weights in it."""
    state = tiny(3, COCO, width=0.03125).model.state_dict()
    checkpoint = {"start_epoch": 300, "model": state, "optimizer": {}}
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url, **_: {"yolox_nano.pth": checkpoint}[url[-14:]])
    return dict(state)


def test_released_weights_become_a_detector_of_the_classes_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    state, classes = released(monkeypatch), ("zebra", "person")
    detector = tiny(4, classes, width=0.03125)
    load_weights(detector, "yolox_nano")
    chosen = [COCO.index(name) for name in classes]
    for key, value in detector.model.state_dict().items():
        assert torch.equal(value, state[key][chosen] if "cls_preds" in key else state[key]), key


def test_released_weights_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    released(monkeypatch)
    for detector, name, message in (
        (tiny(classes=("unicorn",), width=0.03125), "yolox_nano", "know no class unicorn. They know: person, bicycle"),
        (tiny(classes=("zebra",)), "yolox_nano", "do not fit this model"),
        (tiny(), "yolox_small", "no such file, and no weights of that name were released"),
    ):
        with pytest.raises(UsageError) as raised:
            load_weights(detector, name)
        assert message in str(raised.value)


def test_a_released_file_is_loaded_strictly(tmp_path: Path) -> None:
    donor, detector = tiny(1), tiny(2)
    torch.save({"start_epoch": 3, "model": donor.model.state_dict(), "optimizer": {}}, tmp_path / "yolox.pth")
    load_weights(detector, tmp_path / "yolox.pth")
    assert all(torch.equal(v, donor.model.state_dict()[k]) for k, v in detector.model.state_dict().items())
