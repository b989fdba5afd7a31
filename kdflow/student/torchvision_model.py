"""How an exported model of torchvision, or one that is called alike, detects."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from kdflow.student.pictures import Pictures


class AsEvaluated(GeneralizedRCNNTransform):
    """Stands in for the library's transform, whose resize has other rounding and no antialiasing.

    Args:
        library: The model's own transform, for its normalisation and its padding.
        pictures: How pictures are resized and padded.
    """

    def __init__(self, library: Any, pictures: Pictures) -> None:
        super().__init__(
            pictures.size,
            pictures.max_size,
            list(library.image_mean),
            list(library.image_std),
            size_divisible=pictures.divisor,
        )
        self.library = library
        self.pictures = pictures

    def normalize(self, image: Tensor) -> Tensor:
        """The picture resized, then normalised."""
        return self.library.normalize(self.pictures.resized(image))

    def batch_images(self, images: list[Tensor], size_divisible: int = 32) -> Tensor:
        """The pictures on one canvas."""
        return self.library.batch_images(images, size_divisible)

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        """Nothing is left to do; ValueError for targets, whose boxes would have to be resized too."""
        if target is not None:
            raise ValueError("this transform is for inference: resize pictures and boxes yourself to train further")
        return image, target


@torch.no_grad()
def detect(model: Any, image: Tensor, threshold: float, *, first_label: int = 0) -> dict[str, Tensor]:
    """What a model finds in one picture.

    Args:
        model: The model in evaluation mode, with :class:`AsEvaluated` as its transform.
        image: (3, H, W), uint8 or floats in 0..1.
        threshold: Detections have more than this score.
        first_label: The library's label of the first class.

    Returns:
        ``boxes`` (n, 4) xyxy pixels of the picture, ``scores`` (n,), ``labels`` (n,) 0-based.
    """
    (found,) = model([image.to(next(model.parameters()).device)])
    kept = found["scores"] > threshold
    return {name: values[kept] - first_label * (name == "labels") for name, values in found.items()}
