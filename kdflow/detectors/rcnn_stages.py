"""Stages of Faster R-CNN: the library's RPN and RoI heads, cut where a distillation method may look or rewire.

Ports hold 0-based labels with the background last; every loss is computed by the library in its own layout.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops.poolers import LevelMapper

from kdflow.detectors.box_matching import QuietMatcher, Weighed, sample
from kdflow.detectors.loss_terms import LossTerms
from kdflow.detectors.torchvision_parts import (
    PIXELS,
    Held,
    background_first,
    background_last,
    cells,
    empty_detections,
    library_targets,
)
from kdflow.functional.pooling import align_boxes
from kdflow.ports import Call, ClassRows, ImageSizes

ROI = {"logits": "roi.logits", "deltas": "roi.deltas"}
CLASS_ROWS = {
    "roi_heads.box_predictor.cls_score": ClassRows(background=True),
    "roi_heads.box_predictor.bbox_pred": ClassRows(block=4, background=True),
}


class RpnHead(nn.Module):
    """Objectness and box deltas of every anchor."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, maps: list[Tensor]) -> dict[str, Any]:
        """``logits`` (B, H*W*A, 1) and ``deltas`` (B, H*W*A, 4) per level."""
        logits, deltas = self.head(list(maps))
        return {"logits": [cells(x, 1) for x in logits], "deltas": [cells(x, 4) for x in deltas]}


class Proposals(Held):
    """Decoded, clipped and suppressed boxes, as many as the model's present mode keeps; no gradient, as in the library."""

    def forward(
        self, logits: list[Tensor], deltas: list[Tensor], anchors: list[Tensor], image_sizes: ImageSizes
    ) -> dict[str, Any]:
        """``boxes`` (n, 4) xyxy and ``scores`` (n,) per image, best first."""
        rpn: RegionProposalNetwork = self.owner
        count = len(image_sizes)
        flat = torch.cat(deltas, dim=1).reshape(-1, 4)
        decoded = rpn.box_coder.decode(flat.detach(), [torch.cat(anchors)] * count).view(count, -1, 4)
        objectness = torch.cat(logits, dim=1).flatten(0, -2)
        boxes, scores = rpn.filter_proposals(decoded, objectness, image_sizes, [len(a) for a in anchors])
        return {"boxes": boxes, "scores": scores}

    def infer(
        self, logits: list[Tensor], deltas: list[Tensor], anchors: list[Tensor], image_sizes: ImageSizes
    ) -> dict[str, Any]:
        """As many boxes as are kept at most."""
        del deltas, anchors
        rpn: RegionProposalNetwork = self.owner
        count = min(rpn.post_nms_top_n(), sum(min(x.shape[1], rpn.pre_nms_top_n()) for x in logits))
        like = logits[0]
        return {
            "boxes": [like.new_empty(count, 4) for _ in image_sizes],
            "scores": [like.new_empty(count) for _ in image_sizes],
        }


class RpnSample(Held):
    """Which anchors the RPN loss looks at: the library's matcher, then its sampler (random)."""

    def forward(self, anchors: list[Tensor], boxes: list[Tensor], labels: list[Tensor]) -> dict[str, Any]:
        """Per level ``labels`` (B, H*W*A): 1 object, 0 background, -1 not sampled; ``targets`` (B, H*W*A, 4); ``samples``."""
        rpn: RegionProposalNetwork = self.owner
        priors = [torch.cat(anchors)] * len(boxes)
        quiet: Any = SimpleNamespace(
            box_similarity=rpn.box_similarity, proposal_matcher=QuietMatcher(rpn.proposal_matcher)
        )
        assigned, matched = RegionProposalNetwork.assign_targets_to_anchors(quiet, priors, library_targets(boxes, labels))
        deltas = Weighed(rpn.box_coder).encode(matched, priors)
        positive, negative = sample(rpn.fg_bg_sampler, assigned)
        samples = {"labels": assigned, "targets": list(deltas), "positive": positive, "negative": negative}
        chosen = [
            torch.full_like(own, -1, dtype=torch.long).index_fill(0, no, 0).index_fill(0, yes, 1)
            for own, yes, no in zip(assigned, positive, negative)
        ]
        sizes = [len(a) for a in anchors]
        targets = list(torch.stack(list(deltas)).split(sizes, dim=1))
        return {"labels": list(torch.stack(chosen).split(sizes, dim=1)), "targets": targets, "samples": samples}

    def infer(self, anchors: list[Tensor], boxes: list[Tensor], labels: list[Tensor]) -> dict[str, Any]:
        """One label and four deltas per anchor and image."""
        del labels
        return {
            "labels": [a.new_zeros((len(boxes), len(a)), dtype=torch.long) for a in anchors],
            "targets": [a.new_zeros((len(boxes), len(a), 4)) for a in anchors],
            "samples": {},
        }


class RpnLoss(LossTerms):
    """The library's RPN losses on anchors sampled before."""

    names = ("loss_objectness", "loss_rpn_box_reg")

    def forward(self, logits: list[Tensor], deltas: list[Tensor], samples: dict[str, Any]) -> dict[str, Any]:
        """``loss_objectness`` and ``loss_rpn_box_reg``, scalars."""
        labels, targets = torch.cat(samples["labels"]), torch.cat(samples["targets"])
        starts = range(0, len(labels), len(samples["labels"][0]))
        objects, others = (
            torch.cat([own + start for own, start in zip(samples[key], starts)]) for key in ("positive", "negative")
        )
        chosen = torch.cat([objects, others])
        own = torch.cat(deltas, dim=1).reshape(-1, 4)[objects]
        boxes = functional.smooth_l1_loss(own, targets[objects], beta=1 / 9, reduction="sum") / len(chosen)
        scores = torch.cat(logits, dim=1).flatten()
        objectness = functional.binary_cross_entropy_with_logits(scores[chosen], labels[chosen])
        return {"loss_objectness": objectness, "loss_rpn_box_reg": boxes}


class RoiSample(Held):
    """The library's choice of proposals to train on, ground truth appended (random); works in both modes.

    Args:
        owner: The RoI heads.
        classes: Number of classes without background.
    """

    def __init__(self, owner: nn.Module, classes: int) -> None:
        super().__init__(owner)
        self.classes = classes

    def forward(self, proposals: list[Tensor], boxes: list[Tensor], labels: list[Tensor]) -> dict[str, Any]:
        """``boxes`` and ``matched_boxes`` per image; ``labels``, ``positive``, ``negative`` (N,); ``targets`` (N, 4) deltas."""
        heads: RoIHeads = self.owner
        goal = [own.to(proposals[0].dtype) for own in boxes]
        offered = heads.add_gt_proposals(list(proposals), goal)
        indices, classes = heads.assign_targets_to_proposals(offered, goal, [own + 1 for own in labels])
        drawn = [torch.cat(both).sort().values for both in zip(*sample(heads.fg_bg_sampler, classes))]
        chosen, matched = ([own[rows] for own, rows in zip(of, drawn)] for of in (offered, indices))
        objects = [own if len(own) else own.new_zeros(1, 4) for own in goal]
        matched_boxes = [own[m] for own, m in zip(objects, matched)]
        deltas = Weighed(heads.box_coder).encode(matched_boxes, chosen)
        found = (torch.cat([own[rows] for own, rows in zip(classes, drawn)]) - 1) % (self.classes + 1)
        return {
            "boxes": chosen,
            "matched_boxes": matched_boxes,
            "labels": found,
            "positive": found < self.classes,
            "negative": found == self.classes,
            "targets": torch.cat(list(deltas)),
        }

    def infer(self, proposals: list[Tensor], boxes: list[Tensor], labels: list[Tensor]) -> dict[str, Any]:
        """A full sample per image where there are so many proposals."""
        del labels
        most: int = self.owner.fg_bg_sampler.batch_size_per_image
        counts = [min(most, len(p) + len(b)) for p, b in zip(proposals, boxes)]
        like, total = boxes[0], sum(counts)
        flags = {key: like.new_empty(total, dtype=torch.bool) for key in ("positive", "negative")}
        per_image = {key: [like.new_empty(n, 4) for n in counts] for key in ("boxes", "matched_boxes")}
        return {
            **per_image,
            **flags,
            "labels": like.new_empty(total, dtype=torch.long),
            "targets": like.new_empty(total, 4),
        }


class RoiPool(nn.Module):
    """Pooled features of regions, each from the level that fits its size.

    Args:
        pool: The library's multi-scale RoIAlign, whose settings are used.
        names: Names of the pyramid levels.
    """

    def __init__(self, pool: Any, names: tuple[str, ...]) -> None:
        super().__init__()
        self.pool = pool
        self.used = [i for i, name in enumerate(names) if name in pool.featmap_names]

    def forward(self, maps: list[Tensor], boxes: list[Tensor], image_sizes: ImageSizes) -> dict[str, Any]:
        """``features`` (N, C, 7, 7) and ``levels`` (N,)."""
        used = [maps[i] for i in self.used]
        strides = pooled_strides(used, image_sizes)
        finest, coarsest = (int(math.log2(stride)) for stride in (strides[0], strides[-1]))
        levels = LevelMapper(finest, coarsest, self.pool.canonical_scale, self.pool.canonical_level)(list(boxes))
        features = align_boxes(
            used, boxes, levels, strides, self.pool.output_size[0], self.pool.sampling_ratio, aligned=False
        )
        return {"features": features.to(used[0].dtype), "levels": levels}

    def infer(self, maps: list[Tensor], boxes: list[Tensor], image_sizes: ImageSizes) -> dict[str, Any]:
        """One block per box."""
        del image_sizes
        total, sides = sum(len(own) for own in boxes), self.pool.output_size
        features = maps[0].new_empty(total, maps[0].shape[1], *sides)
        return {"features": features, "levels": features.new_empty(total, dtype=torch.long)}


def pooled_strides(maps: Sequence[Tensor], image_sizes: ImageSizes) -> list[int]:
    """Pixels per cell of each map as the library infers them: the power of two next to tallest image over map."""
    tallest = max(height for height, _ in image_sizes)
    return [2 ** round(math.log2(tallest / level.shape[-2])) for level in maps]


def roi_head(head: Any) -> RoiHead | ConvHead:
    """The stage of a box head: two layers, or convolutions and one."""
    return RoiHead(head) if hasattr(head, "fc6") else ConvHead(head)


class RoiHead(nn.Module):
    """The two fully connected layers of the box head, each also before its ReLU."""

    gives = ("fc1", "fc2", "embedding")

    def __init__(self, head: Any) -> None:
        super().__init__()
        # Only what is called here: a tap on the head as a whole would otherwise be promised and never filled.
        self.fc6, self.fc7 = head.fc6, head.fc7

    def forward(self, features: Tensor) -> dict[str, Any]:
        """``fc1``, ``fc2`` (N, D) before their ReLU, ``embedding`` (N, D) after the second."""
        first = self.fc6(features.flatten(start_dim=1))
        second = self.fc7(functional.relu(first))
        return {"fc1": first, "fc2": second, "embedding": functional.relu(second)}


class ConvHead(nn.Module):
    """The box head of the library's v2: convolutions, and one fully connected layer, also before its ReLU."""

    gives = ("fc1", "embedding")

    def __init__(self, head: Any) -> None:
        super().__init__()
        *convs, self.fc, _ = head
        self.convs = nn.Sequential(*convs)

    def forward(self, features: Tensor) -> dict[str, Any]:
        """``fc1`` (N, D) before its ReLU, ``embedding`` (N, D) after it."""
        first = self.fc(self.convs(features))
        return {"fc1": first, "embedding": functional.relu(first)}


class RoiPredict(nn.Module):
    """Class scores and box deltas, background last."""

    def __init__(self, predictor: nn.Module) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, embedding: Tensor) -> dict[str, Any]:
        """``logits`` (N, K+1) and ``deltas`` (N, 4(K+1))."""
        logits, deltas = self.predictor(embedding)
        return {"logits": background_last(logits), "deltas": background_last(deltas, 4)}


class RoiDecode(Held):
    """Boxes that the deltas stand for, without clipping."""

    def forward(self, deltas: Tensor, boxes: list[Tensor]) -> dict[str, Any]:
        """``decoded`` (N, 4(K+1)) xyxy, background last."""
        return {"decoded": self.owner.box_coder.decode(deltas, list(boxes)).flatten(1)}


class RoiLoss(LossTerms):
    """The library's losses of the box head.

    Args:
        classes: Number of classes without background.
    """

    names = ("loss_classifier", "loss_box_reg")

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, logits: Tensor, deltas: Tensor, labels: Tensor, targets: Tensor) -> dict[str, Any]:
        """``loss_classifier`` and ``loss_box_reg``, scalars."""
        own = (labels + 1) % (self.classes + 1)
        scores, boxes = fastrcnn_loss(background_first(logits), background_first(deltas, 4), [own], [targets])
        return {"loss_classifier": scores, "loss_box_reg": boxes}


class RoiDetect(Held):
    """The box head on the proposals themselves, and the library's post-processing.

    Args:
        owner: The RoI heads.
        names: Names of the pyramid levels.
    """

    def __init__(self, owner: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__(owner)
        self.names = names

    def forward(self, maps: list[Tensor], proposals: list[Tensor], image_sizes: ImageSizes) -> dict[str, Any]:
        """``detections``: per image boxes, scores and 0-based labels, best first."""
        heads = self.owner
        pooled = heads.box_roi_pool(OrderedDict(zip(self.names, maps)), list(proposals), image_sizes)
        logits, deltas = heads.box_predictor(heads.box_head(pooled))
        found = heads.postprocess_detections(logits, deltas, list(proposals), image_sizes)
        return {"detections": [{"boxes": b, "scores": s, "labels": x - 1} for b, s, x in zip(*found)]}

    def infer(self, maps: list[Tensor], proposals: list[Tensor], image_sizes: ImageSizes) -> dict[str, Any]:
        """As many detections as are kept at most."""
        del proposals
        return {"detections": empty_detections(maps[0], self.owner.detections_per_img, len(image_sizes))}


def calls() -> dict[str, Call]:
    """What a method may run again."""
    head = ("fc1", "fc2", "embedding", "logits", "deltas")
    sampled = ("boxes", "labels", "positive", "negative", "matched_boxes", "targets")
    proposed = ("logits", "deltas", "anchors", "proposals", "scores")
    return {
        "backbone": PIXELS,
        "rpn": Call({"features": "neck"}, {n: f"rpn.{n}" for n in proposed}, doc="region proposals on other maps"),
        "roi": Call(
            {"features": "roi.pool:maps", "boxes": "roi.boxes"},
            {n: f"roi.{n}" for n in ("features", "levels", *head, "decoded")},
            doc="box head on other maps or other boxes",
        ),
        "roi.head": Call(
            {"features": "roi.features"}, {n: f"roi.{n}" for n in head}, doc="box head on pooled blocks"
        ),
        "roi.sample": Call(
            {"proposals": "rpn.proposals", "boxes": "roi.sample:boxes", "labels": "roi.sample:labels"},
            {n: f"roi.{n}" for n in sampled},
            doc="sampling of other proposals, or for other ground truth",
        ),
        "roi.decode": Call(
            {"deltas": "roi.deltas", "boxes": "roi.boxes"}, {"boxes": "roi.decoded"}, doc="boxes that deltas stand for"
        ),
        "roi.loss": Call(
            {**ROI, "labels": "roi.labels", "targets": "roi.targets"},
            {n: f"losses.{n}" for n in RoiLoss.names},
            doc="losses of the box head on other predictions or labels",
        ),
    }
