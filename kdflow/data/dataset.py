"""Images on disk with their boxes in memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F  # noqa: N812  (torchvision's own name for it)

from kdflow.data.annotations import Annotations, Trouble
from kdflow.data.findings import ADVICE
from kdflow.data.images import ImageFaultError, read_pixels
from kdflow.data.transforms import Geometry, Sample, as_boxes, clean, resize
from kdflow.errors import DataError


class DetectionSet(Dataset[Sample]):
    """The samples of one split, as they are on disk; crowds and difficult objects are not among the boxes.

    torchvision's CocoDetection and VOCDetection give the same images and boxes (a test compares them); they keep every
    annotation as Python objects, or parse it again for each image, and know one folder layout each.

    Args:
        annotations: Boxes and file names.
    """

    def __init__(self, annotations: Annotations) -> None:
        self.annotations = annotations
        self._resident: dict[tuple[int, tuple[int, int]], Sample] = {}

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> Sample:
        """Raises DataError when the file is missing, broken, or not of the annotated size."""
        table = self.annotations
        height, width = (int(side) for side in table.sizes[index])
        image = self._decode(index)
        if image.shape[-2:] != (height, width):
            raise DataError(
                f"{table.place}  {Trouble.OTHER_SIZE}: {table.names[index]} is "
                f"{image.shape[-1]}x{image.shape[-2]}, annotated {width}x{height}"
            )
        rows = table.rows(index)
        counts = ~table.ignored[rows]
        corners = table.boxes[rows][counts]
        corners = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1)
        return Sample(
            image=image,
            boxes=as_boxes(torch.from_numpy(corners), (height, width)),
            labels=torch.from_numpy(table.labels[rows][counts]),
            image_id=int(table.ids[index]),
            original_size=(height, width),
        )

    def resized(self, index: int, geometry: Geometry) -> Sample:
        """Sample ``index`` at the input size of the geometry, boxes cleaned; from memory where the geometry says so."""
        height, width = (int(side) for side in self.annotations.sizes[index])
        size = geometry.target(height, width)
        if not geometry.resident:
            return clean(resize(self[index], size))
        if (index, size) not in self._resident:
            sample = clean(resize(self[index], size))
            # a tensor of its own: decoding and resizing may leave a view of a larger or oddly strided buffer
            self._resident[index, size] = replace(sample, image=tv_tensors.Image(sample.image.contiguous()))
        return self._resident[index, size]

    def _decode(self, index: int) -> tv_tensors.Image:
        table = self.annotations
        try:
            return tv_tensors.Image(F.pil_to_tensor(read_pixels(table.files[index], table.pixels)))
        except ImageFaultError as error:
            reason = f" ({error.reason})" if error.reason else ""
            finding = f"{table.place}  {error.trouble}: {table.names[index]}{reason}"
            raise DataError(f"{finding}. Next: {ADVICE[error.trouble]}") from None
