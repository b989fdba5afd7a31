"""What every registered detector promises about the library's model that it stands for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers

from kdflow.engine.evaluate import evaluate, judge
from kdflow.errors import UsageError
from kdflow.ports import DETECTORS, Batch
from tests.contracts.tiny_detectors import NAMES, RAGGED, SQUARE, batch_for, detector_of
from tests.detectors.library import library_inputs, make_batch
from tests.detectors.staging import run_stages

each = pytest.mark.parametrize("name", NAMES)


def library_model(detector: Any) -> Any:
    """The model that its exported source builds, with random weights."""
    space: dict[str, Any] = {}
    exec(detector.source().text(), space)
    torch.manual_seed(99)
    return space["build"]()


@each
def test_the_state_dict_is_that_of_the_librarys_model_both_ways(name: str) -> None:
    detector = detector_of(name)
    library = library_model(detector)
    ours, theirs = detector.model.state_dict(), library.state_dict()
    assert list(ours) == list(theirs)
    assert {key: (value.shape, value.dtype) for key, value in ours.items()} == {
        key: (value.shape, value.dtype) for key, value in theirs.items()
    }
    if type(detector.model).__module__.startswith("torchvision."):
        assert type(library).__module__.startswith("torchvision.models.detection")
    if detector.library == "transformers":
        assert type(library) is type(detector.model)
    drawn = {key: value.clone() for key, value in theirs.items()}
    library.load_state_dict(ours, strict=True)
    assert all(torch.equal(value, ours[key]) for key, value in library.state_dict().items())
    detector.model.load_state_dict(drawn, strict=True)
    assert all(torch.equal(value, drawn[key]) for key, value in detector.model.state_dict().items())


def library_detections(detector: Any, batch: Batch) -> list[dict[str, torch.Tensor]]:
    """What the library alone finds with the detector's weights, in 0-based labels."""
    model = library_model(detector)
    model.load_state_dict(detector.model.state_dict(), strict=True)
    model.eval()
    if detector.library == "transformers":
        pixels = detector.stages["normalize"].run(batch.images, batch.image_sizes)
        output = model(pixel_values=pixels["pixels"], pixel_mask=pixels["mask"])
        processor = getattr(transformers, detector.stages["postprocess"].run.processor)()
        return processor.post_process_object_detection(output, threshold=0.0, target_sizes=batch.image_sizes)
    offset = detector.source().detect["first_label"]
    return [{**one, "labels": one["labels"] - offset} for one in model(library_inputs(batch, offset)[0])]


def as_coco(image_id: int, found: dict[str, torch.Tensor], size: tuple[int, int]) -> list[dict[str, Any]]:
    """Detections as COCO writes them: clipped to the image, categories from 1."""
    limit = torch.tensor([size[1], size[0]] * 2, dtype=torch.float64)
    boxes = found["boxes"].double().clamp(min=0).minimum(limit)
    return [
        {"image_id": image_id, "category_id": int(label) + 1, "bbox": [x, y, x2 - x, y2 - y], "score": score}
        for (x, y, x2, y2), score, label in zip(boxes.tolist(), found["scores"].tolist(), found["labels"])
    ]


@each
def test_its_ap_is_that_of_the_librarys_own_detections(name: str) -> None:
    detector, batch = detector_of(name), batch_for(name)
    batch = replace(batch, image_ids=[1, 2], original_sizes=list(batch.image_sizes))
    with torch.no_grad():
        found = library_detections(detector, batch)
    by_image = {i: as_coco(i, one, size) for i, one, size in zip((1, 2), found, batch.image_sizes)}
    # The truth is some of what the library finds, and one object that nobody finds.
    objects = [one for rows in by_image.values() for one in sorted(rows, key=lambda row: -row["score"])[1:4]]
    objects.append({"image_id": 1, "category_id": 1, "bbox": [0.0, 0.0, 2.0, 2.0]})
    truth = {
        "images": [{"id": i, "width": w, "height": h} for i, (h, w) in zip((1, 2), batch.image_sizes)],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(detector.classes)],
        "annotations": [
            {"id": i + 1, "iscrowd": 0, "area": one["bbox"][2] * one["bbox"][3], **one} for i, one in enumerate(objects)
        ],
    }
    metrics = evaluate(detector, [batch], truth)
    assert metrics == judge(by_image, truth)
    assert 0 < metrics["AP50"] < 100


@each
def test_one_object_in_the_whole_batch_is_learnt(name: str) -> None:
    for counts in ((1, 0), (0, 1)):
        detector = detector_of(name)
        detector.model.train()
        values = run_stages(detector, batch_for(name, counts))
        losses = {term: values[port] for term, port in detector.losses.items()}
        assert all(torch.isfinite(value) for value in losses.values())
        boxes = [value for term, value in losses.items() if "box" in term or "reg" in term]
        assert any(value > 0 for value in boxes), losses


@each
def test_images_of_unequal_size_are_taken_or_refused_with_the_reason(name: str) -> None:
    detector = detector_of(name)
    detector.model.eval()
    unequal = make_batch((1, 1), RAGGED)
    if DETECTORS.get(name).ragged or name == "ssd":
        found = detector.predict(unequal.images, unequal.image_sizes)
        moved = make_batch((1, 1), RAGGED)
        for image, (height, width) in zip(moved.images, moved.image_sizes):
            image[:, height:] = 9.0
            image[:, :, width:] = 9.0
        again = detector.predict(moved.images, moved.image_sizes)
        for one, other in zip(found, again):
            assert all(torch.equal(one[key], value) for key, value in other.items()), "what lies in the padding counts"
        return
    with pytest.raises(UsageError) as raised:
        detector.predict(unequal.images, unequal.image_sizes)
    assert f"{name} reads padding as picture (its library ignores the padding mask)" in str(raised.value)
    assert "data.fixed: true" in str(raised.value)
    equal = make_batch((1, 1), SQUARE)
    assert len(detector.predict(equal.images, equal.image_sizes)) == 2
