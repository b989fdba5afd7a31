"""The library's own forward pass beside a detector's stages: losses, gradients, buffers and detections must be equal."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from kdflow.ports import Batch, Detector
from tests.detectors.staging import run_stages, training_stages

SIZES = ((64, 96), (91, 64))
"""Two unequal images whose shorter side is 64, so that the library's resize to 64 changes nothing."""


def make_batch(
    counts: Sequence[int] = (3, 2),
    sizes: Sequence[tuple[int, int]] = SIZES,
    classes: int = 3,
    seed: int = 0,
    divisor: int = 32,
) -> Batch:
    """Random images with ``counts`` objects each, padded with zeros to one canvas whose sides are multiples of ``divisor``."""
    random = torch.Generator().manual_seed(seed)
    canvas = [-(-max(side) // divisor) * divisor for side in zip(*sizes)]
    images = torch.zeros(len(sizes), 3, *canvas)
    boxes, labels = [], []
    for image, (height, width), count in zip(images, sizes, counts):
        image[:, :height, :width] = torch.rand(3, height, width, generator=random)
        sides = torch.tensor([width, height] * 2, dtype=torch.float32)
        corners = torch.rand(count, 2, 2, generator=random).sort(dim=1).values.flatten(1)
        corners[:, 2:] = (corners[:, 2:] + 0.15).clamp(max=1)
        corners[:, :2] = (corners[:, :2] - 0.15).clamp(min=0)
        boxes.append(corners * sides)
        labels.append(torch.randint(classes, (count,), generator=random))
    return Batch(images, list(sizes), boxes, labels)


def library_inputs(batch: Batch, offset: int) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """The same batch as the library takes it: images without padding, labels shifted."""
    images = [image[:, :h, :w].clone() for image, (h, w) in zip(batch.images, batch.image_sizes)]
    return images, [{"boxes": b, "labels": x + offset} for b, x in zip(batch.boxes, batch.labels)]


def library_losses(model: Any, batch: Batch, offset: int, seed: int) -> dict[str, torch.Tensor]:
    """Losses of ``model(images, targets)`` with the draw of its own transform left out."""
    model.transform._skip_resize = True
    torch.manual_seed(seed)
    return model(*library_inputs(batch, offset))


def assert_exact(detector: Detector, batch: Batch, offset: int, seed: int = 7) -> None:
    """Losses, gradients and buffers of a training step are those of the library, bit for bit."""
    model = copy.deepcopy(detector.model).train()
    detector.model.train()
    expected = library_losses(model, batch, offset, seed)
    torch.manual_seed(seed)
    values = run_stages(detector, batch, only=training_stages(detector))
    assert list(detector.losses) == list(expected)
    for name, port in detector.losses.items():
        assert torch.equal(values[port], expected[name]), name
    sum(expected.values()).backward()
    sum(values[port] for port in detector.losses.values()).backward()
    theirs = dict(model.named_parameters())
    for name, parameter in detector.model.named_parameters():
        wanted, found = theirs[name].grad, parameter.grad
        assert (wanted is None) == (found is None), name
        assert wanted is None or torch.equal(wanted, found), name
    for name, buffer in detector.model.named_buffers():
        assert torch.equal(buffer, dict(model.named_buffers())[name]), name


def assert_same_detections(detector: Detector, batch: Batch, offset: int) -> None:
    """``predict`` and the stages give what the library's forward gives for the unpadded images."""
    model = copy.deepcopy(detector.model).eval()
    with torch.no_grad():
        expected = model(library_inputs(batch, offset)[0])
        detector.model.eval()
        staged = run_stages(detector, batch)["detections"]
    predicted = detector.predict(batch.images, batch.image_sizes)
    assert sum(len(one["boxes"]) for one in expected) > 0
    for wanted, one, other in zip(expected, predicted, staged):
        for key, value in wanted.items():
            value = value - offset if key == "labels" else value
            assert torch.equal(one[key], value), key
            assert torch.equal(other[key], value), key
