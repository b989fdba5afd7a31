"""Prototypes of every class and level, found by both models together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from kdflow.functional.pooling import average_in_boxes
from kdflow.functional.prototypes import pursue
from kdflow.kinds import Boxes, Labels, Map, Pyramid, of_axes
from kdflow.operation import op

Positive = Annotated[int, Field(gt=0)]
VECTORS, CLASSES = of_axes(("m", "c"), "levels"), of_axes(("m",), "levels")
Key = tuple[int, int]


@op(
    "prepare.prototypes",
    gives={"student": VECTORS, "teacher": VECTORS, "labels": CLASSES},
    defaults={"images": "images", "boxes": "targets.boxes", "labels": "targets.labels"},
)
class Prototypes(nn.Module):
    """Few real objects per class and level that rebuild all others in both feature spaces.

    Objects' vectors are averages of the maps inside their boxes. Objects that lie densely in both spaces are
    candidates, and a greedy pursuit with coupled coefficients takes ``per_class`` of them. Outputs, per level:
    ``student`` (M, C_S) and ``teacher`` (M, C_T) vectors, not normalised, and ``labels`` (M,); M is 0 before the
    first preparation, and a class without objects has no rows. On several processes the objects of all are used.
    Source: ODGK (arXiv 2210.09022), section 3.2, and its release.

    Args:
        per_class: Prototypes per class and level; the same object may be taken more than once.
        images_per_class: Images used for a class, the first ones that come by.
        min_side: Boxes must be wider and higher than this, pixels.
        penalty: Weight of the difference between the two models' coefficients.
        width: Width of the density kernel.
        quantile: Share of the objects that are too lonely to be candidates.
    """

    def __init__(
        self,
        per_class: Positive = 10,
        images_per_class: Positive = 800,
        min_side: Annotated[float, Field(ge=0)] = 30.0,
        penalty: Annotated[float, Field(ge=0)] = 10.0,
        width: Annotated[float, Field(gt=0)] = 0.1,
        quantile: Annotated[float, Field(ge=0, lt=1)] = 0.4,
    ) -> None:
        super().__init__()
        self.per_class, self.images_per_class, self.min_side = per_class, images_per_class, min_side
        self.penalty, self.width, self.quantile = penalty, width, quantile
        self.levels = 0
        self.begin()

    def build(self, student: Pyramid, teacher: Pyramid, images: Map, boxes: Boxes, labels: Labels) -> None:
        """Empty tables for every level."""
        self.levels = len(student)
        for index, (ours, theirs) in enumerate(zip(student, teacher, strict=True)):
            self.register_buffer(f"student_{index}", torch.zeros(0, ours.shape[1]))
            self.register_buffer(f"teacher_{index}", torch.zeros(0, theirs.shape[1]))
            self.register_buffer(f"labels_{index}", torch.zeros(0, dtype=torch.long))

    def begin(self) -> None:
        """Forget all observations; the tables stay until :meth:`finish`."""
        self._seen: Counter[int] = Counter()
        self._found: dict[Key, list[tuple[Tensor, Tensor]]] = defaultdict(list)

    def observe(self, student: Pyramid, teacher: Pyramid, images: Map, boxes: Boxes, labels: Labels) -> None:
        """Collect the vectors of a batch.

        Args:
            student: Maps per level.
            teacher: Maps of the same levels.
            images: (B, 3, H, W); only the padded size is read.
            boxes: Per image (n, 4) xyxy pixels of the padded input.
            labels: Per image (n,) classes.
        """
        kept = [self._wanted(b, c) for b, c in zip(boxes, labels, strict=True)]
        chosen = [b[k] for b, k in zip(boxes, kept, strict=True)]
        classes = torch.cat([c[k] for c, k in zip(labels, kept, strict=True)]).cpu()
        for level, (ours, theirs) in enumerate(zip(student, teacher, strict=True)):
            vectors = [
                average_in_boxes(maps.float(), chosen, images.shape[-1] / maps.shape[-1]).cpu()
                for maps in (ours, theirs)
            ]
            for label in classes.unique().tolist():
                here = classes == label
                self._found[label, level].append((vectors[0][here], vectors[1][here]))

    def _wanted(self, boxes: Tensor, labels: Tensor) -> Tensor:
        """Large boxes of classes that still need images; counts the image for its classes."""
        keep = (boxes[:, 2:] - boxes[:, :2] > self.min_side).all(1)
        for label in labels[keep].unique().tolist():
            if self._seen[label] >= self.images_per_class:
                keep &= labels != label
            self._seen[label] += 1
        return keep

    def finish(self) -> None:
        """Choose the prototypes from everything observed."""
        found = _of_all_processes(self._found)
        for level in range(self.levels):
            ours, theirs, classes = [], [], []
            for label in sorted({label for label, where in found if where == level}):
                a, d = (torch.cat(side) for side in zip(*found[label, level], strict=True))
                picked = pursue(a, d, self.per_class, self.penalty, self.width, self.quantile)
                ours.append(a[picked])
                theirs.append(d[picked])
                classes.append(torch.full((len(picked),), label))
            if classes:
                self._fill(level, torch.cat(ours), torch.cat(theirs), torch.cat(classes))
        self.begin()

    def _fill(self, level: int, ours: Tensor, theirs: Tensor, labels: Tensor) -> None:
        for name, value in (("student", ours), ("teacher", theirs), ("labels", labels)):
            old = getattr(self, f"{name}_{level}")
            setattr(self, f"{name}_{level}", value.to(device=old.device, dtype=old.dtype))

    def forward(self) -> dict[str, Any]:
        """The tables per level."""
        return {
            name: [getattr(self, f"{name}_{level}") for level in range(self.levels)]
            for name in ("student", "teacher", "labels")
        }

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Tables take the size of those that are loaded."""
        for name, table in list(self.named_buffers(recurse=False)):
            saved = state_dict.get(prefix + name)
            if isinstance(saved, Tensor) and saved.shape[1:] == table.shape[1:]:
                setattr(self, name, table.new_zeros(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _of_all_processes(found: Mapping[Key, list[tuple[Tensor, Tensor]]]) -> dict[Key, list[tuple[Tensor, Tensor]]]:
    """Observations of all ranks, in the order of the ranks; the own ones where there is one process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return dict(found)
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, dict(found))
    joined: dict[Key, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for part in everyone:
        for key, vectors in part.items():
            joined[key] += vectors
    return dict(joined)
