"""Faster R-CNN: as many proposals for every picture, those that are missing filled up, and what the box head makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import roi_align
from torchvision.ops.poolers import LevelMapper

from kdflow.detectors.rcnn_stages import RoiPool, pooled_strides
from kdflow.ports import Detector
from kdflow.using.export.inside.candidates import NEVER, Canvas, Found, Size, Stages, Suppression, pick, within
from kdflow.using.export.inside.suppress import kept

SMALLEST = 1e-2
"""Sides of boxes below which torchvision's box head drops them, pixels."""


class RegionCandidates(nn.Module):
    """A two-stage detector of torchvision at a fixed size."""

    def __init__(self, detector: Detector, size: Size, canvas: Size) -> None:
        super().__init__()
        model: Any = detector.model
        self.model = model
        self.prepare = Canvas(detector.stages["normalize"].run, canvas)
        self.stages = Stages(detector)
        pool: Any = detector.stages["roi.pool"].run
        self.pool: RoiPool = pool
        self.size = size
        heads = model.roi_heads
        self.suppression = Suppression(
            float(heads.score_thresh), float(heads.nms_thresh), int(heads.detections_per_img)
        )
        with torch.no_grad():
            given = {"normalize.pixels": torch.zeros(1, 3, *canvas)}
            self.anchors: list[Tensor] = self.stages(given, ["rpn.anchors"])["rpn.anchors"]

    def forward(self, pictures: Tensor) -> Found:
        """Candidates of (N, 3, height, width) pictures in 0..1, resized and not padded: every class of every proposal."""
        given = {"normalize.pixels": self.prepare(pictures), "rpn.anchors": self.anchors}
        values = self.stages(given, ["neck", "rpn.logits", "rpn.deltas"])
        proposals, real = self._proposals(values["rpn.logits"], values["rpn.deltas"])
        heads = self.model.roi_heads
        pooled = self._pooled(values["neck"], proposals)
        logits, deltas = heads.box_predictor(heads.box_head(pooled))
        return self._decoded(logits, deltas, proposals, real)

    def _proposals(self, logits: Sequence[Tensor], deltas: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The best boxes of the RPN, (N, P, 4), and which of them are real, (N, P)."""
        rpn: RegionProposalNetwork = self.model.rpn
        levels = [self._best(rpn, *level) for level in zip(logits, deltas, self.anchors)]
        boxes, scores = (torch.cat(list(parts), dim=1) for parts in zip(*levels))
        numbers = [torch.full((own.shape[1],), i, dtype=torch.int64) for i, (_, own) in enumerate(levels)]
        groups = torch.cat(numbers).expand(scores.shape[0], -1)
        large = (boxes[..., 2:] - boxes[..., :2] >= rpn.min_size).all(-1) & (scores >= rpn.score_thresh)
        scores = torch.where(large, scores, torch.full_like(scores, NEVER))
        most = min(rpn.post_nms_top_n(), int(scores.shape[1]))
        picture, chosen = kept(boxes, scores, groups, rpn.nms_thresh, NEVER / 2, most)
        # A number of rows that depends on the picture becomes a fixed one: what was kept goes before all else.
        marks = torch.full_like(scores, NEVER).index_put((picture, chosen), scores[picture, chosen])
        best, rows = marks.topk(most, dim=1)
        return pick(boxes, rows), best > NEVER / 2

    def _best(
        self, rpn: RegionProposalNetwork, logits: Tensor, deltas: Tensor, anchors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Boxes (N, C, 4) and scores (N, C) of a level's best anchors."""
        best, rows = logits[..., 0].topk(min(rpn.pre_nms_top_n(), int(logits.shape[1])), dim=1)
        chosen, priors = pick(deltas, rows), anchors[rows]
        decoded = rpn.box_coder.decode_single(chosen.reshape(-1, 4), priors.reshape(-1, 4))
        return within(decoded.view_as(chosen), self.size), best.sigmoid()

    def _pooled(self, maps: Sequence[Tensor], proposals: Tensor) -> Tensor:
        """(N * P, C, 7, 7), each region from the level that fits its size."""
        pool = self.pool.pool
        used = [maps[i] for i in self.pool.used]
        strides = pooled_strides(used, [self.size])
        finest, coarsest = (stride.bit_length() - 1 for stride in (strides[0], strides[-1]))
        flat = proposals.reshape(-1, 4)
        levels = LevelMapper(finest, coarsest, pool.canonical_scale, pool.canonical_level)([flat])
        images = torch.ones_like(proposals[..., 0]).cumsum(0).reshape(-1, 1) - 1
        rows = torch.cat([images, flat], dim=1)
        blocks = flat.new_zeros(flat.shape[0], used[0].shape[1], *pool.output_size)
        for index, (own, stride) in enumerate(zip(used, strides)):
            here = torch.nonzero(levels == index)[:, 0]
            read = roi_align(own, rows[here], pool.output_size, 1.0 / stride, pool.sampling_ratio)
            blocks = blocks.index_put((here,), read)
        return blocks

    def _decoded(self, logits: Tensor, deltas: Tensor, proposals: Tensor, real: Tensor) -> Found:
        """Class 0 of the library is the background."""
        count, classes = int(proposals.shape[1]), int(logits.shape[1]) - 1
        scores = logits.softmax(-1)[:, 1:].reshape(-1, count * classes)
        boxes = self.model.roi_heads.box_coder.decode_single(deltas, proposals.reshape(-1, 4)).unflatten(1, (classes + 1, 4))
        boxes = within(boxes[:, 1:].reshape(-1, count * classes, 4), self.size)
        able = (boxes[..., 2:] - boxes[..., :2] >= SMALLEST).all(-1) & real.repeat_interleave(classes, dim=1)
        labels = torch.arange(classes).repeat(count).expand(scores.shape[0], -1)
        return boxes, torch.where(able, scores, torch.full_like(scores, NEVER)), labels
