"""Stages of YOLOX: pixels, stems, towers, predictors, cells, assignment (SimOTA) and losses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from kdflow.detectors import dense_stages as dense
from kdflow.detectors.loss_terms import LossTerms
from kdflow.detectors.torchvision_parts import Held
from kdflow.detectors.yolox_model import Conv, Head, corners_of, decode
from kdflow.functional.precision import single
from kdflow.functional.simota import SimotaRule, center_iou, simota
from kdflow.ports import ImageSizes


class Pixels(Held):
    """Pictures in 0..1, padded with zeros, as the released weights want them; the owner is the model's transform."""

    def forward(self, images: Tensor, image_sizes: ImageSizes) -> dict[str, Any]:
        """``pixels`` (B, 3, H, W)."""
        return {"pixels": self.owner.fill(self.owner.normalize(images), image_sizes)}


class Fuse(Held):
    """The neck on the backbone's maps; the owner is a :class:`kdflow.detectors.yolox_model.PAFPN`."""

    def __init__(self, owner: nn.Module) -> None:
        super().__init__(owner)
        self.layers = nn.ModuleList(layer for name, layer in owner.named_children() if name != "backbone")

    def forward(self, maps: list[Tensor]) -> dict[str, Any]:
        """``maps`` of strides 8, 16 and 32."""
        return {"maps": self.owner.fuse(list(maps))}


class Stems(nn.Module):
    """The head's first block on every level, which brings the levels to one width."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.stems = head.stems

    def forward(self, maps: list[Tensor]) -> dict[str, Any]:
        """``stems`` (B, C, H, W) per level."""
        return {"stems": [stem(m) for stem, m in zip(self.stems, maps)]}


def towers_of(head: Head) -> dense.Towers:
    """Both branches of the head, each with a tower per level."""
    return dense.Towers(level_tower(head.cls_convs), level_tower(head.reg_convs))


def level_tower(levels: Iterable[Any]) -> dense.LevelTower:
    """Towers whose blocks end with their last activation: that of the 1x1 convolution where blocks are depthwise."""
    return dense.LevelTower(
        dense.Tower(nn.Sequential(*(block if isinstance(block, Conv) else _flat(block) for block in blocks)))
        for blocks in levels
    )


def _flat(block: Any) -> nn.Sequential:
    return nn.Sequential(block.dconv, *block.pconv)


def decoded(deltas: Tensor, cells: Tensor) -> Tensor:
    """(N, 4) xyxy boxes, not clipped, of offsets and logarithms of sides in cells."""
    return corners_of(decode(deltas, cells))


class Scores(nn.Module):
    """The probability of each class, which is that of the class in an object times that of an object."""

    def forward(self, logits: list[Tensor], objectness: list[Tensor]) -> dict[str, Any]:
        """``scores`` (B, H*W, K) in 0..1 per level."""
        return {"scores": [z.sigmoid() * o.sigmoid()[..., None] for z, o in zip(logits, objectness)]}


def centered(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) from xyxy to centre and sides."""
    return torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], dim=-1)


def stacked(rows: list[Tensor]) -> Tensor:
    """Values of the objects of each image in one tensor, filled up with zeros: at least one entry per image."""
    return pad_sequence([functional.pad(own, (0,) * (2 * own.dim() - 1) + (1,)) for own in rows], batch_first=True)


class SimotaAssign(nn.Module):
    """SimOTA: cells answer for the objects that they already predict best.

    Cells on padding are ordinary background: the network is trained to find nothing there.
    """

    def __init__(self, rule: SimotaRule) -> None:
        super().__init__()
        self.rule = rule

    def forward(
        self,
        priors: list[Tensor],
        boxes: list[Tensor],
        labels: list[Tensor],
        logits: list[Tensor],
        objectness: list[Tensor],
        decoded: list[Tensor],
    ) -> dict[str, Any]:
        """Values per level of :func:`kdflow.detectors.dense_stages.describe`, and ``iou`` (B, R) of cell and object.

        Args:
            priors: Cells.
            boxes: Objects per image, xyxy.
            labels: Their classes.
            logits: Class scores.
            objectness: Objectness logits.
            decoded: Predicted boxes, xyxy.
        """
        found = simota(
            torch.cat(priors),
            centered(stacked(boxes)),
            stacked(labels),
            stacked([torch.ones_like(own, dtype=torch.bool) for own in labels]),
            centered(single(torch.cat(decoded, dim=1))),
            torch.cat(logits, dim=1),
            torch.cat(objectness, dim=1),
            self.rule,
        )
        counts = [len(level) for level in priors]
        return {**dense.describe(found.indices, counts, boxes), "iou": list(found.own.split(counts, dim=1))}

    def infer(self, priors: list[Tensor], boxes: list[Tensor], **rest: Any) -> dict[str, Any]:
        """One value per cell."""
        del rest
        return {**dense.empty_assignment(priors, len(boxes)), "iou": [p.new_empty((len(boxes), len(p))) for p in priors]}


class YoloxLoss(LossTerms):
    """Class, box, objectness and (where asked for) L1 losses: sums over the batch divided by its positives, at least 1.

    The divisor is that of each process alone, as in the original. Nothing is read from the device.

    Args:
        weights: Loss term -> factor, in order; without ``loss_l1`` that term is not computed.
    """

    def __init__(self, weights: dict[str, float]) -> None:
        super().__init__()
        self.weights = dict(weights)
        self.names = tuple(weights)

    def forward(
        self,
        priors: list[Tensor],
        indices: list[Tensor],
        boxes: list[Tensor],
        labels: list[Tensor],
        logits: list[Tensor],
        objectness: list[Tensor],
        deltas: list[Tensor],
    ) -> dict[str, Any]:
        """Weighted loss terms, scalars."""
        cells, place = torch.cat(priors), torch.cat(indices, dim=1)
        scores, present, raw = (single(torch.cat(v, dim=1)) for v in (logits, objectness, deltas))
        positive, index = place >= 0, place.clamp(min=0)
        # Outputs of other cells would only be multiplied by 0, and a box of infinite size would make that no number.
        raw = torch.where(positive[..., None], raw, 0.0)
        objects = centered(stacked(boxes)).gather(1, index[..., None].expand(-1, -1, 4))
        overlaps = center_iou(decode(raw, cells), objects, eps=1e-16)
        classes = stacked(labels).gather(1, index)
        terms = {
            "loss_cls": torch.where(positive, self.classification(scores, classes, overlaps.detach()), 0.0),
            "loss_bbox": torch.where(positive, 1 - overlaps.square(), 0.0),
            "loss_obj": self.presence(present, place),
        }
        if "loss_l1" in self.weights:
            apart = (raw - encoded(objects, cells)).abs().sum(-1)
            terms["loss_l1"] = torch.where(positive, apart, 0.0)
        count = positive.sum().clamp(min=1)
        return {name: terms[name].sum() / count * weight for name, weight in self.weights.items()}

    @staticmethod
    def classification(logits: Tensor, classes: Tensor, overlaps: Tensor) -> Tensor:
        """(B, R) binary cross-entropy summed over classes, with the overlap as target of the object's class."""
        own = logits.gather(-1, classes[..., None]).squeeze(-1)
        return functional.softplus(logits).sum(-1) - own * overlaps

    @staticmethod
    def presence(objectness: Tensor, place: Tensor) -> Tensor:
        """(B, R) binary cross-entropy; 0 where a foreign assignment leaves a cell out."""
        wanted = (place >= 0).to(objectness.dtype)
        values = functional.binary_cross_entropy_with_logits(objectness, wanted, reduction="none")
        return torch.where(place == -2, 0.0, values)


def encoded(objects: Tensor, cells: Tensor) -> Tensor:
    """The raw outputs that would decode to objects (..., R, 4), given as centre and sides."""
    stride = cells[:, 2:] - cells[:, :2]
    return torch.cat([(objects[..., :2] - cells[:, :2]) / stride, (objects[..., 2:] / stride + 1e-8).log()], dim=-1)
