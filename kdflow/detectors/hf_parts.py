"""Modules that the transformer detectors share: normalising, features, targets, matching, losses, post-processing.

Targets reach the library as normalised cxcywh boxes and 0-based labels; its own matcher and criterion do the rest. The criterion
receives the pairs that the matching stage found, so that a method may hand it other pairs, targets or predictions.

A query set (kind ``queries``) is a dict with some of these entries; which of them a family reads is said in its file:
``content`` (B, N, D); ``position`` (B, N, D); ``references`` (B, N, 2 or 4), points or cxcywh boxes in 0..1; ``anchors``, the
same before the sigmoid, read instead of ``references`` where present (own queries carry both, so that nothing is rounded).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdflow.detectors.normalize import Normalize
from kdflow.errors import UsageError
from kdflow.kinds import SCALAR
from kdflow.ports import ImageSizes, Port

Pairs = list[list[tuple[Tensor, Tensor]]]
Labels = list[dict[str, Tensor]]


class Grid(NamedTuple):
    """Sizes of the maps behind flattened tokens.

    Attributes:
        sizes: (height, width) per level, finest first.
        shapes: The same as an integer tensor (levels, 2).
        starts: Index of each level's first token, (levels,).
    """

    sizes: list[tuple[int, int]]
    shapes: Tensor
    starts: Tensor


def grid_of(maps: Sequence[Tensor]) -> Grid:
    """The grid of maps (B, C, H, W)."""
    sizes = [(int(m.shape[-2]), int(m.shape[-1])) for m in maps]
    shapes = torch.as_tensor(sizes, dtype=torch.long, device=maps[0].device)
    return Grid(sizes, shapes, torch.cat((shapes.new_zeros((1,)), shapes.prod(1).cumsum(0)[:-1])))


def flatten(maps: Sequence[Tensor]) -> Tensor:
    """Maps (B, C, H, W) as one token sequence (B, sum of H*W, C), finest level first, rows before columns."""
    return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)


def unflatten(tokens: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """The inverse of :func:`flatten`; the maps are views."""
    parts = tokens.split([h * w for h, w in sizes], dim=1)
    return [p.transpose(1, 2).unflatten(2, size) for p, size in zip(parts, sizes)]


def unsigmoid(value: Tensor, eps: float = 1e-5) -> Tensor:
    """Inverse sigmoid of values in 0..1, both odds bounded below by ``eps`` as the DETR family does."""
    value = value.clamp(0, 1)
    return torch.log(value.clamp(min=eps) / (1 - value).clamp(min=eps))


def to_labels(boxes: Sequence[Tensor], labels: Sequence[Tensor], image_sizes: ImageSizes) -> Labels:
    """Targets as the library wants them: cxcywh divided by each image's own (unpadded) width and height.

    Args:
        boxes: Per image (n, 4) xyxy pixels.
        labels: Per image (n,) 0-based classes.
        image_sizes: (height, width) per image.
    """
    targets = []
    for own, classes, (height, width) in zip(boxes, labels, image_sizes):
        x1, y1, x2, y2 = own.unbind(-1)
        sides = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
        targets.append({"class_labels": classes, "boxes": torch.stack(sides, -1)})
    return targets


class Prepare(nn.Module):
    """Normalises the images and says where they end.

    Args:
        statistics: ``imagenet``, or ``none`` to leave the values in 0..1.
        refuse_padding: Name of a model that has no padding mask; images must then fill the canvas.
    """

    def __init__(self, statistics: str, refuse_padding: str = "") -> None:
        super().__init__()
        self.normalize = Normalize() if statistics == "imagenet" else None
        self.refuse_padding = refuse_padding

    def forward(self, images: Tensor, image_sizes: ImageSizes) -> dict[str, Any]:
        """``pixels`` (B, 3, H, W) and ``mask`` (B, H, W), 1 inside the images; UsageError for refused padding."""
        canvas = (images.shape[-2], images.shape[-1])
        if self.refuse_padding and any(tuple(size) != canvas for size in image_sizes):
            raise UsageError(
                f"{self.refuse_padding} reads padding as picture (its library ignores the padding mask), so every image must "
                f"fill the canvas of {canvas[0]} x {canvas[1]}, but this batch holds {sorted(set(image_sizes))}. "
                "Set data.fixed: true with a data.size that is a multiple of 32, or choose another detector."
            )
        mask = torch.zeros((len(images), *canvas), dtype=torch.long, device=images.device)
        for row, (height, width) in zip(mask, image_sizes):
            row[:height, :width] = 1
        return {
            "pixels": images if self.normalize is None else self.normalize(images, image_sizes)["pixels"],
            "mask": mask,
        }


class Backbone(nn.Module):
    """The library's backbone (its own, or a timm one)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> dict[str, Any]:
        """``maps``: one (B, C, H, W) per stage, finest first."""
        found = self.model(pixels)
        return {"maps": list(getattr(found, "feature_maps", found))}


class Projection(nn.Module):
    """Layers to the transformer's width: one for each of the coarsest maps; levels beyond these are made from the one before."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, maps: list[Tensor]) -> dict[str, Any]:
        """``maps`` (B, D, H, W) per level."""
        read = maps[-len(self.layers) :]
        projected = [layer(m) for layer, m in zip(self.layers, read)]
        for i, layer in enumerate(self.layers[len(read) :]):
            projected.append(layer(projected[-1] if i else read[-1]))
        return {"maps": projected}


class Memory(nn.Module):
    """The memory as one sequence, as selection and decoder read it."""

    def __init__(self, flat: Callable[[list[Tensor]], Tensor]) -> None:
        super().__init__()
        self.flat = flat

    def forward(self, maps: list[Tensor]) -> dict[str, Any]:
        """``tokens`` (B, S, D)."""
        return {"tokens": self.flat(maps)}


class Targets(nn.Module):
    """Hands the ground truth to matching and criterion, as ports that a call may replace."""

    def forward(self, boxes: list[Tensor], labels: list[Tensor]) -> dict[str, Any]:
        """``boxes`` and ``labels`` unchanged."""
        return {"boxes": list(boxes), "labels": list(labels)}


@dataclass(frozen=True)
class SetLoss:
    """A family's set loss, as matching and criterion read it.

    Attributes:
        make: Makes the library's criterion with its matcher.
        names: Loss terms of one layer, in the library's order.
        weights: Factor per name; empty where the library's criterion applies them itself.
        auxiliary: Suffix pattern of earlier layers' terms (``_aux_{}``); empty for a loss on the last layer alone.
        clamp: Boxes are clamped to 0..1 first (D-FINE).
        one_class: All classes are taken as one (the proposals of Deformable DETR).
    """

    make: Callable[[], Any]
    names: tuple[str, ...]
    weights: Mapping[str, float] = field(default_factory=dict)
    auxiliary: str = ""
    clamp: bool = False
    one_class: bool = False

    def clamped(self, boxes: list[Tensor]) -> list[Tensor]:
        """Predicted boxes as the loss reads them."""
        return [b.clamp(min=0, max=1) for b in boxes] if self.clamp else boxes

    def targets(self, boxes: list[Tensor], labels: list[Tensor], image_sizes: ImageSizes) -> Labels:
        """Targets as the library wants them, see :func:`to_labels`."""
        labels = [torch.zeros_like(x) for x in labels] if self.one_class else labels
        return to_labels(boxes, labels, image_sizes)


class Match(nn.Module):
    """The library's own assignment of queries to objects, per decoder layer."""

    def __init__(self, loss: SetLoss) -> None:
        super().__init__()
        self.loss = loss

    def forward(
        self,
        logits: list[Tensor],
        boxes: list[Tensor],
        target_boxes: list[Tensor],
        target_labels: list[Tensor],
        image_sizes: ImageSizes,
    ) -> dict[str, Any]:
        """``indices``: per layer and image (query, target) int64 on the device of the logits."""
        labels = self.loss.targets(target_boxes, target_labels, image_sizes)
        matcher, device = self.loss.make().matcher, logits[0].device
        found = [matcher({"logits": x, "pred_boxes": b}, labels) for x, b in zip(logits, self.loss.clamped(boxes))]
        return {"indices": [[(i.to(device), j.to(device)) for i, j in layer] for layer in found]}

    def infer(self, logits: list[Tensor], target_labels: list[Tensor], **rest: Any) -> dict[str, Any]:
        """As many pairs as targets, or as queries where these are fewer."""
        del rest
        counts = [min(len(t), logits[0].shape[1]) for t in target_labels]
        pair = [(logits[0].new_empty(n, dtype=torch.long), logits[0].new_empty(n, dtype=torch.long)) for n in counts]
        return {"indices": [list(pair) for _ in logits]}


class Given(nn.Module):
    """Stands in for a matcher: hands out pairs found before, in the order in which the criterion asks."""

    def __init__(self, pairs: Sequence[list[tuple[Tensor, Tensor]]]) -> None:
        super().__init__()
        self.pairs = list(pairs)

    def forward(self, outputs: Any, targets: Any) -> list[tuple[Tensor, Tensor]]:
        """The next layer's pairs."""
        del outputs, targets
        return self.pairs.pop(0)


class Terms(nn.Module):
    """A stage that gives loss terms.

    Attributes:
        names: Their names, in the library's order.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = tuple(names)

    def ports(self) -> dict[str, Port]:
        """``losses.<name>`` for each term."""
        doc = "weighted loss term of the library"
        return {name: Port(f"losses.{name}", SCALAR, doc=doc) for name in self.names}

    def infer(self, **values: Any) -> dict[str, Any]:
        """Scalars."""
        like: Tensor = values["logits" if "logits" in values else "boxes"][0]
        return {name: like.new_zeros(()) for name in (*self.names, "total")}


class Criterion(Terms):
    """The library's own set loss of some layers, on given pairs.

    Args:
        loss: Which loss.
        layers: Number of layers.
        suffix: Behind the names of the terms.
    """

    def __init__(self, loss: SetLoss, layers: int = 1, suffix: str = "") -> None:
        earlier = [loss.auxiliary.format(i) for i in range(layers - 1)] if loss.auxiliary else []
        super().__init__(f"{name}{end}" for end in (suffix, *earlier) for name in loss.names)
        self.loss, self.suffix = loss, suffix

    def forward(
        self,
        logits: list[Tensor],
        boxes: list[Tensor],
        pairs: Pairs,
        target_boxes: list[Tensor],
        target_labels: list[Tensor],
        image_sizes: ImageSizes,
    ) -> dict[str, Any]:
        """Weighted scalar per loss term, and ``total``, their sum."""
        labels = self.loss.targets(target_boxes, target_labels, image_sizes)
        criterion, boxes = self.loss.make().to(logits[0].device), self.loss.clamped(boxes)
        outputs: dict[str, Any] = {"logits": logits[-1], "pred_boxes": boxes[-1]}
        if self.loss.auxiliary:
            earlier = zip(logits[:-1], boxes[:-1])
            outputs["auxiliary_outputs"] = [{"logits": x, "pred_boxes": b} for x, b in earlier]
        criterion.matcher = Given([pairs[-1], *pairs[:-1]])
        return self.weighted(criterion(outputs, labels))

    def weighted(self, losses: Mapping[str, Tensor]) -> dict[str, Any]:
        """The terms times their weights, and the total of all of them in the library's order."""
        known, weights = self.loss.names, self.loss.weights
        terms = {
            f"{name}{self.suffix}": value * weights[layerless(name)] if weights else value
            for name, value in losses.items()
            if layerless(name) in known
        }
        total = sum(terms.values())
        return {**{name: terms.get(name, total * 0) for name in self.names}, "total": total}


def masked_loss(config: Any, auxiliary: bool, make: Callable[[Any], Any], class_weight: float = 1) -> SetLoss:
    """The set loss of a transformer that knows the padding.

    Args:
        config: The library's configuration.
        auxiliary: Losses on every decoder layer, not on the last alone.
        make: Makes the library's criterion of the configuration.
        class_weight: Factor of the class term; the library's is 1.
    """
    boxes = {"loss_bbox": config.bbox_loss_coefficient, "loss_giou": config.giou_loss_coefficient}
    weights = {"loss_ce": class_weight, **boxes}
    return SetLoss(partial(make, config), tuple(weights), weights, "_{}" if auxiliary else "")


def draws(config: Any) -> bool:
    """True where a transformer of this configuration drops out, so that its stages draw random numbers in training."""
    return any(getattr(config, name, 0) for name in ("dropout", "attention_dropout", "activation_dropout"))


def attention_weights(out: Any, sampled: bool, skip: int = 0) -> dict[str, Any]:
    """Decoder attention per layer without the first ``skip`` queries.

    Args:
        out: The library's decoder output.
        sampled: Deformable attention, which the library gives as (B, N, h, levels, points) or (B, N, h, levels * points).
        skip: Number of leading queries that are no ports.

    Returns:
        ``self_attention`` (B, h, N, N) and ``cross_attention`` (B, h, N, attended places).
    """
    cross = [a.flatten(3).transpose(1, 2) if sampled else a for a in out.cross_attentions]
    return {
        "self_attention": [a[:, :, skip:, skip:] for a in out.attentions],
        "cross_attention": [a[:, :, skip:] for a in cross],
    }


def layerless(name: str) -> str:
    """``loss_bbox_aux_3`` -> ``loss_bbox``."""
    return re.sub(r"(_aux|_dn|_enc)?(_\d+)?$", "", name)


class Postprocess(nn.Module):
    """The library's own post-processing, without a score threshold.

    Args:
        processor: Name of the image processor class in transformers.
        options: Further options of its ``post_process_object_detection``.
    """

    def __init__(self, processor: str, **options: Any) -> None:
        super().__init__()
        self.processor = processor
        self.options = options

    def forward(self, logits: list[Tensor], boxes: list[Tensor], image_sizes: ImageSizes) -> dict[str, Any]:
        """``detections``: per image boxes (xyxy pixels), scores and 0-based labels, best first where the library sorts."""
        return {"detections": self.decode(SimpleNamespace(logits=logits[-1], pred_boxes=boxes[-1]), image_sizes)}

    def decode(self, outputs: Any, image_sizes: ImageSizes) -> list[dict[str, Tensor]]:
        """Detections of a library output (``logits``, ``pred_boxes``)."""
        import transformers

        processor = getattr(transformers, self.processor)()
        sizes = torch.tensor(image_sizes)
        return processor.post_process_object_detection(outputs, threshold=-1.0, target_sizes=sizes, **self.options)

    def infer(self, logits: list[Tensor], boxes: list[Tensor], image_sizes: ImageSizes) -> dict[str, Any]:
        """As many detections as queries, or as the processor takes of all scores."""
        del boxes
        like, top = logits[-1], self.options.get("top_k")
        count = min(top, like.shape[1] * like.shape[2]) if top else like.shape[1]
        one = {
            "scores": like.new_empty(count),
            "labels": like.new_empty(count, dtype=torch.long),
            "boxes": like.new_empty(count, 4),
        }
        return {"detections": [dict(one) for _ in image_sizes]}
