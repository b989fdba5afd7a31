"""What ``from_pretrained`` of the transformers library reads: a model with its configuration, and an image processor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from kdflow.detectors.hf_parts import Postprocess
from kdflow.errors import MissingPackageError, UsageError
from kdflow.files import read_json, write_json
from kdflow.ports import Detector
from kdflow.student.pictures import Pictures
from kdflow.using.finder import Finder

_BILINEAR = 2
FACTS = "kdflow.json"
"""What the library's own files do not say: classes in label order, whether pictures are turned, options of the decoding."""
STAND_INS = {"RfDetrImageProcessor": "RTDetrImageProcessor"}
"""Image processors that resize otherwise than evaluations do (RF-DETR's has no antialiasing) -> one that decodes alike."""


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
    processor = STAND_INS.get(postprocess.processor, postprocess.processor)
    getattr(transformers, processor)(**settings).save_pretrained(folder)
    facts = {"classes": list(detector.classes), "upright": pictures.upright, "decoding": dict(postprocess.options)}
    write_json(folder / FACTS, facts)


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


def pretrained_finder(folder: Path, device: torch.device | str = "cpu") -> Finder:
    """The folder, read back by the library's own loaders.

    Args:
        folder: As :func:`write_pretrained` wrote it.
        device: Where the model computes.

    Raises:
        UsageError: The library does not read it.
        MissingPackageError: transformers is not installed.
    """
    try:
        from transformers import AutoImageProcessor, AutoModelForObjectDetection
    except ImportError as error:
        raise MissingPackageError("this folder needs transformers: pip install kdflow[transformers]") from error
    facts = read_json(folder / FACTS)
    try:
        model: Any = AutoModelForObjectDetection.from_pretrained(folder).to(device).eval()
        processor: Any = AutoImageProcessor.from_pretrained(folder)
        names: Mapping[int, str] = model.config.id2label
        classes = tuple(str(names[index]) for index in range(len(facts["classes"])))
        options, upright = dict(facts["decoding"]), bool(facts["upright"])
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise UsageError(f"{folder}: this model cannot be read: {str(error).splitlines()[0]}") from error

    @torch.no_grad()
    def look(image: Tensor) -> dict[str, Tensor]:
        given = processor(images=transforms.to_pil_image(image), return_tensors="pt").to(device)
        sizes = torch.tensor([list(image.shape[-2:])])
        (found,) = processor.post_process_object_detection(
            model(**given), threshold=-1.0, target_sizes=sizes, **options
        )
        limit = found["boxes"].new_tensor([image.shape[-1], image.shape[-2]] * 2)
        return {**found, "boxes": found["boxes"].clamp(min=0).minimum(limit)}

    return Finder(classes, upright, look)
