"""How an exported model of the transformers library detects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor

from kdflow.student.pictures import Pictures


def inputs(image: Tensor, pictures: Pictures, statistics: tuple[Any, Any] | None) -> dict[str, Tensor]:
    """``pixel_values`` (1, 3, H, W) and ``pixel_mask`` (1, H, W) of a (3, H, W) picture.

    Args:
        image: uint8, or floats in 0..1.
        pictures: How pictures are resized and padded.
        statistics: Mean and standard deviation per colour; None leaves the values in 0..1.
    """
    resized = pictures.resized(image)
    mask = pictures.padded(torch.ones_like(resized))[:1]
    if statistics is not None:
        mean, deviation = (resized.new_tensor(values).view(3, 1, 1) for values in statistics)
        resized = (resized - mean) / deviation
    return {"pixel_values": pictures.padded(resized)[None], "pixel_mask": mask.to(torch.long)}


@torch.no_grad()
def detect(
    model: Any,
    image: Tensor,
    threshold: float,
    pictures: Pictures,
    *,
    processor: str,
    options: Mapping[str, Any],
    statistics: tuple[Any, Any] | None,
) -> dict[str, Tensor]:
    """What a model finds in one picture.

    Args:
        model: The model in evaluation mode.
        image: (3, H, W), uint8 or floats in 0..1.
        threshold: Detections have more than this score.
        pictures: How pictures are resized and padded.
        processor: The library's image processor, which decodes the outputs.
        options: Further options of its decoding.
        statistics: Mean and standard deviation per colour; None leaves the values in 0..1.

    Returns:
        ``boxes`` (n, 4) xyxy pixels of the picture, ``scores`` (n,), ``labels`` (n,) 0-based.
    """
    device = next(model.parameters()).device
    given = {name: value.to(device) for name, value in inputs(image, pictures, statistics).items()}
    decode = getattr(transformers, processor)().post_process_object_detection
    sizes = torch.tensor([list(image.shape[-2:])])
    (found,) = decode(model(**given), threshold=threshold, target_sizes=sizes, **options)
    return dict(found)
