"""Tiny transformer detectors of the transformers library, tiny batches, and the comparison with the library's own forward."""

from __future__ import annotations

import copy
import re
from typing import Any

import torch

from kdflow.detectors.hf_parts import to_labels
from kdflow.ports import DETECTORS, Batch, Detector
from tests.detectors.staging import run_stages

CLASSES = ("ant", "bee", "cow", "dog", "elk")
CANVAS = (96, 128)
FAMILIES = {name: DETECTORS.get(name) for name in DETECTORS.names() if DETECTORS.get(name).library == "transformers"}
NAMES = tuple(FAMILIES)
MASKED = tuple(name for name, family in FAMILIES.items() if family.ragged)
COUNTS = ((2, 0), (0, 0), (1, 3), (0, 1))


def build(name: str, seed: int = 0, *, uneven: bool = True, **options: Any) -> Any:
    """A tiny detector; ``uneven`` moves its weights, many of which the library starts at 0 or 1, and its queries almost equal."""
    torch.manual_seed(seed)
    detector = FAMILIES[name].build(CLASSES, **{**FAMILIES[name].tiny, **options})
    for key, parameter in detector.model.named_parameters():
        if uneven and parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * (1.0 if "query_" in key and "embeddings" in key else 0.05)
    return detector


def make_batch(counts: tuple[int, ...] = (2, 0), sizes: list[tuple[int, int]] | None = None, seed: int = 0) -> Batch:
    """Random images and ``counts`` boxes; pixels outside ``sizes`` are 0."""
    draw = torch.Generator().manual_seed(seed)
    sizes = sizes or [CANVAS] * len(counts)
    images = torch.zeros(len(counts), 3, *CANVAS)
    boxes, labels = [], []
    for image, count, (height, width) in zip(images, counts, sizes):
        image[:, :height, :width] = torch.rand(3, height, width, generator=draw)
        corner = torch.rand(count, 2, generator=draw) * 30
        boxes.append(torch.cat([corner, corner + 8 + torch.rand(count, 2, generator=draw) * 25], 1))
        labels.append(torch.randint(0, len(CLASSES), (count,), generator=draw))
    return Batch(images, sizes, boxes, labels, list(range(len(counts))), list(sizes))


def both(detector: Any, batch: Batch, training: bool, seed: int = 5) -> tuple[dict[str, Any], Any, torch.nn.Module]:
    """The ports by stages, the library's output, and the copy of the model that made it, from equal random states."""
    detector.model.train(training)
    library = copy.deepcopy(detector.model)
    if not training and hasattr(library.config, "group_detr"):
        library.config.group_detr = 1  # its criterion takes every loss for one of training
    torch.manual_seed(seed)
    values = run_stages(detector, batch)
    pixels = detector.stages["normalize"].run(batch.images, batch.image_sizes)
    torch.manual_seed(seed)
    output = library(
        pixel_values=pixels["pixels"],
        pixel_mask=pixels["mask"],
        labels=to_labels(batch.boxes, batch.labels, batch.image_sizes),
    )
    return values, output, library


def own_losses(detector: Detector, values: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The detector's loss terms by name."""
    return {name: values[port] for name, port in detector.losses.items()}


def weighted(output: Any, config: Any) -> dict[str, torch.Tensor]:
    """The library's loss terms times its own weights (the RT-DETR family, whose class term is another, applies them itself)."""
    if "loss_ce" not in output.loss_dict:
        return dict(output.loss_dict)
    boxes = {"loss_bbox": config.bbox_loss_coefficient, "loss_giou": config.giou_loss_coefficient}
    weights = {"loss_ce": getattr(config, "class_loss_coefficient", 1), **boxes}
    found = {key: re.sub(r"(_\d+|_enc)$", "", key) for key in output.loss_dict}
    return {key: output.loss_dict[key] * weights[base] for key, base in found.items() if base in weights}


def assert_same_gradients(model: torch.nn.Module, library: torch.nn.Module) -> None:
    """Every parameter has the same gradient, bit for bit, in both."""
    for (name, own), other in zip(model.named_parameters(), library.parameters()):
        if other.grad is None:
            assert own.grad is None, name
        else:
            assert torch.equal(own.grad, other.grad), name


def shapes(value: Any) -> Any:
    """Shapes of a nested value, for comparing inferred with real ones."""
    if isinstance(value, torch.Tensor):
        return tuple(int(side) for side in value.shape)
    if isinstance(value, dict):
        return {key: shapes(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [shapes(entry) for entry in value]
    return type(value).__name__
