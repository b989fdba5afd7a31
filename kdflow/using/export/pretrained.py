"""What ``from_pretrained`` of the transformers library reads: a model with its configuration, and an image processor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from kdflow.detectors.hf_parts import Postprocess
from kdflow.errors import UsageError
from kdflow.ports import Detector
from kdflow.student.pictures import Pictures
from kdflow.using.finder import Finder

_BILINEAR = 2


def write_pretrained(folder: Path, detector: Detector, pictures: Pictures) -> None:
    """Write model and image processor.

    Raises:
        UsageError: The detector is not of the transformers library, or its processor has no such way with pictures.
    """
    if detector.library != "transformers":
        raise UsageError(
            f"{detector.name} is a model of {detector.library}, which from_pretrained does not know. Next: --format torch, "
            "safetensors or onnx"
        )
    import transformers

    postprocess: Any = detector.stages["postprocess"].run
    if not isinstance(postprocess, Postprocess):
        raise UsageError(f"{detector.name}: its image processor is not known")
    model: Any = detector.model
    model.save_pretrained(folder)
    settings = _settings(detector, pictures)
    getattr(transformers, postprocess.processor)(**settings).save_pretrained(folder)


def _settings(detector: Detector, pictures: Pictures) -> dict[str, Any]:
    normalize: Any = getattr(detector.stages["normalize"].run, "normalize", None)
    size = (
        {"height": pictures.size, "width": pictures.size}
        if pictures.fixed
        else {"shortest_edge": pictures.size, "longest_edge": pictures.max_size}
    )
    settings: dict[str, Any] = {
        "do_resize": True,
        "size": size,
        "resample": _BILINEAR,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_pad": False,
        "do_normalize": normalize is not None,
    }
    if pictures.fixed and pictures.size % pictures.divisor:
        side = -(-pictures.size // pictures.divisor) * pictures.divisor
        settings |= {"do_pad": True, "pad_size": {"height": side, "width": side}}
    if normalize is not None:
        settings |= {"image_mean": normalize.mean.flatten().tolist(), "image_std": normalize.std.flatten().tolist()}
    return settings


def pretrained_finder(folder: Path, detector: Detector) -> Finder:
    """The folder, read back by the library's own loaders."""
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    model: Any = AutoModelForObjectDetection.from_pretrained(folder).eval()
    processor: Any = AutoImageProcessor.from_pretrained(folder)
    options: Mapping[str, Any] = getattr(detector.stages["postprocess"].run, "options", {})
    names = model.config.id2label
    classes = tuple(str(names[index]) for index in range(len(detector.classes)))

    @torch.no_grad()
    def look(image: Tensor) -> dict[str, Tensor]:
        given = processor(images=transforms.to_pil_image(image), return_tensors="pt")
        sizes = torch.tensor([list(image.shape[-2:])])
        (found,) = processor.post_process_object_detection(
            model(**given), threshold=-1.0, target_sizes=sizes, **options
        )
        limit = torch.tensor([image.shape[-1], image.shape[-2]] * 2)
        return {**found, "boxes": found["boxes"].clamp(min=0).minimum(limit)}

    return Finder(classes, False, look)
