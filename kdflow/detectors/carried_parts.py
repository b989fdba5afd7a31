"""The shared parts of transformer families that still declare stages and ports apart.

Targets reach the library as normalised cxcywh boxes and 0-based labels; its own matcher and criterion do the rest. The criterion
receives the pairs that the matching stage found, so that a method may hand it other pairs, targets or predictions.

A query set (kind ``queries``) is a dict with some of these entries; which of them a family reads is said in its file:
``content`` (B, N, D); ``position`` (B, N, D); ``references`` (B, N, 2 or 4), points or cxcywh boxes in 0..1; ``anchors``, the
same before the sigmoid, read instead of ``references`` where present (own queries carry both, so that nothing is rounded).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdflow.detectors.bridge import PortSpec, joined, standard_port
from kdflow.detectors.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from kdflow.detectors.torchvision_parts import evaluating
from kdflow.errors import UsageError
from kdflow.kinds import ANY, BOXES, LABELS, SCALAR, Kind
from kdflow.ports import Call, Detector, ImageSizes, PortEntry, Stage
from kdflow.source import Source

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


class Targets(nn.Module):
    """Hands the ground truth to matching and criterion, as ports that a call may replace."""

    def forward(self, boxes: list[Tensor], labels: list[Tensor]) -> dict[str, Any]:
        """``boxes`` and ``labels`` unchanged."""
        return {"boxes": list(boxes), "labels": list(labels)}


class Match(nn.Module):
    """The library's own assignment of queries to objects, per decoder layer.

    Args:
        criterion: Makes the library's criterion.
        clamp: Boxes are clamped to 0..1 first (D-FINE).
    """

    def __init__(self, criterion: Callable[[], Any], clamp: bool = False) -> None:
        super().__init__()
        self.make = criterion
        self.clamp = clamp

    def forward(
        self,
        logits: list[Tensor],
        boxes: list[Tensor],
        target_boxes: list[Tensor],
        target_labels: list[Tensor],
        image_sizes: ImageSizes,
    ) -> dict[str, Any]:
        """``indices``: per layer and image (query, target) int64 on the device of the logits."""
        labels = to_labels(target_boxes, target_labels, image_sizes)
        matcher, device = self.make().matcher, logits[0].device
        seen = [b.clamp(min=0, max=1) for b in boxes] if self.clamp else boxes
        found = [matcher({"logits": x, "pred_boxes": b}, labels) for x, b in zip(logits, seen)]
        return {"indices": [[(i.to(device), j.to(device)) for i, j in layer] for layer in found]}

    def infer(
        self,
        logits: list[Tensor],
        boxes: list[Tensor],
        target_boxes: list[Tensor],
        target_labels: list[Tensor],
        image_sizes: ImageSizes,
    ) -> dict[str, Any]:
        """As many pairs as targets, or as queries where these are fewer."""
        del boxes, image_sizes
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


class Criterion(nn.Module):
    """The library's own set loss of the decoder layers, on given pairs.

    Args:
        criterion: Makes the library's criterion.
        names: Names of the loss terms of one layer, in the library's order.
        weights: Factor per name; empty where the library's criterion has applied them.
        auxiliary: Suffix pattern of earlier layers' terms (``_aux_{}``), None for a loss on the last layer alone.
        layers: Number of decoder layers.
        clamp: Boxes are clamped to 0..1 first (D-FINE).
    """

    def __init__(
        self,
        criterion: Callable[[], Any],
        names: Sequence[str],
        weights: Mapping[str, float],
        auxiliary: str | None,
        layers: int,
        clamp: bool = False,
    ) -> None:
        super().__init__()
        self.make = criterion
        self.clamp = clamp
        self.weights = dict(weights)
        self.auxiliary = auxiliary
        count = layers - 1 if auxiliary is not None else 0
        self.base = tuple(names)
        self.names = (*names, *(f"{name}{str(auxiliary).format(i)}" for i in range(count) for name in names))

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
        labels = to_labels(target_boxes, target_labels, image_sizes)
        criterion = self.make().to(logits[0].device)
        boxes = [b.clamp(min=0, max=1) for b in boxes] if self.clamp else boxes
        outputs: dict[str, Any] = {"logits": logits[-1], "pred_boxes": boxes[-1]}
        if self.auxiliary is not None:
            earlier = zip(logits[:-1], boxes[:-1])
            outputs["auxiliary_outputs"] = [{"logits": x, "pred_boxes": b} for x, b in earlier]
        criterion.matcher = Given([pairs[-1], *pairs[:-1]])
        return self.weighted(criterion(outputs, labels))

    def weighted(self, losses: Mapping[str, Tensor]) -> dict[str, Any]:
        """The terms times their weights, and the total of all of them in the library's order."""
        terms = {
            n: v * self.weights[layerless(n)] if self.weights else v
            for n, v in losses.items()
            if layerless(n) in self.base
        }
        total = sum(terms.values())
        return {**{n: terms.get(n, total * 0) for n in self.names}, "total": total}

    def infer(self, logits: list[Tensor], **rest: Any) -> dict[str, Any]:
        """Scalars."""
        del rest
        return {n: logits[0].new_zeros(()) for n in (*self.names, "total")}


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


def transformers_detector(
    name: str,
    classes: Sequence[str],
    model: nn.Module,
    stages: Mapping[str, Stage],
    calls: Mapping[str, Call],
    *,
    size_divisor: int,
    optional: Mapping[str, Sequence[PortEntry]] | None = None,
) -> Detector:
    """A model of the transformers library as stages; its losses are all ports below ``losses``.

    Args:
        name: Registered name.
        classes: Class names in label order.
        model: The library's model.
        stages: All stages, among them ``normalize`` (a :class:`Prepare`) and ``postprocess`` (a :class:`Postprocess`).
        calls: What a method may run again.
        size_divisor: Canvas sides are multiples of it.
        optional: As in :class:`kdflow.ports.Detector`.
    """
    given = [port.name for stage in stages.values() for _, port in stage.ports]
    losses = {port.removeprefix("losses."): port for port in given if port.startswith("losses.")}
    return Detector(
        name,
        "transformer",
        "transformers",
        tuple(classes),
        model,
        stages,
        calls,
        losses,
        size_divisor,
        optional or {},
        inference=predict,
        writer=source_of,
        loader=no_names,
    )


def predict(detector: Detector, images: Tensor, image_sizes: ImageSizes) -> list[dict[str, Tensor]]:
    """Detections by the library's own inference and post-processing; see :meth:`kdflow.ports.Detector.predict`."""
    normalize: Any = detector.stages["normalize"].run
    postprocess: Any = detector.stages["postprocess"].run
    with evaluating(detector.model), torch.no_grad():
        seen = normalize(images, image_sizes)
        outputs = detector.model(pixel_values=seen["pixels"], pixel_mask=seen["mask"])
        found: list[dict[str, Tensor]] = postprocess.decode(outputs, image_sizes)
        return found


def source_of(detector: Detector) -> Source:
    """Python that makes an untrained model of the same architecture; load the weights strictly."""
    prepare: Any = detector.stages["normalize"].run
    postprocess: Any = detector.stages["postprocess"].run
    config: Any = detector.model.config
    name, kind = type(detector.model).__name__, type(config).__name__
    settings = json.loads(config.to_json_string(use_diff=True))
    dropped = ("transformers_version", "architectures", "dtype", "_name_or_path")
    return Source(
        f"{name} of the transformers library",
        "transformers",
        imports=(f"from transformers import {kind}, {name}",),
        lines=(f"model = {name}({kind}.from_dict(CONFIG))",),
        constants={"CONFIG": {key: value for key, value in settings.items() if key not in dropped}},
        detect={
            "processor": postprocess.processor,
            "options": postprocess.options,
            "statistics": None if prepare.normalize is None else (IMAGENET_MEAN, IMAGENET_STD),
        },
    )


def no_names(detector: Detector, name: str) -> None:
    """Folders and hub names bring their own architecture, so they are read when a model is built; what is left is no file."""
    raise UsageError(f'weights "{name}": there is no such file')


def HfDetector(  # noqa: N802
    name: Any, classes: Any, model: Any, ports: Any, stages: Any, calls: Any, losses: Any, size_divisor: Any, optional: Any = None
) -> Detector:
    return transformers_detector(
        name, classes, model, joined(stages, ports), calls, size_divisor=size_divisor, optional=optional
    )


def port(name: str, stage: str, key: str, **details: Any) -> Any:
    """A standard port of a transformer detector."""
    return standard_port(name, "transformer", stage, key, **details)


def inner(stage: str, key: str, doc: str, kind: Kind = ANY) -> Any:
    """A port that stages need among themselves, or that belongs to one family."""
    return PortSpec(kind, stage, key, doc=doc)


def loss_ports(stage: str, names: Sequence[str]) -> dict[str, Any]:
    """``losses.<name>`` for each term of a loss stage."""
    return {f"losses.{name}": inner(stage, name, "weighted loss term of the library", SCALAR) for name in names}


def target_stages() -> tuple[dict[str, Stage], dict[str, Any]]:
    """The stage and ports that carry the ground truth to matching and criterion."""
    stage = Stage(Targets(), {"boxes": "targets.boxes", "labels": "targets.labels"}, ("boxes", "labels"))
    ports = {
        "match.target_boxes": inner("targets", "boxes", "boxes that queries are matched to", BOXES),
        "match.target_labels": inner("targets", "labels", "their classes", LABELS),
    }
    return {"targets": stage}, ports


TARGET_INPUTS = {
    "target_boxes": "match.target_boxes",
    "target_labels": "match.target_labels",
    "image_sizes": "image_sizes",
}
PREDICTIONS = {"logits": "decoder.logits", "boxes": "decoder.boxes"}


def matching_stages(criterion: Criterion) -> tuple[dict[str, Stage], dict[str, Any]]:
    """Targets, matching and criterion of the decoder layers, in this order, with their ports."""
    stages, ports = target_stages()
    match = Match(criterion.make, criterion.clamp)
    stages["match"] = Stage(match, {**PREDICTIONS, **TARGET_INPUTS}, ("indices",))
    stages["criterion"] = Stage(
        criterion,
        {**PREDICTIONS, "pairs": "match.indices", **TARGET_INPUTS},
        (*criterion.names, "total"),
    )
    ports["match.indices"] = port("match.indices", "match", "indices")
    ports["criterion.total"] = inner("criterion", "total", "sum of the decoder layers' loss terms", SCALAR)
    return stages, {**ports, **loss_ports("criterion", criterion.names)}


def criterion_call(criterion: Criterion) -> Call:
    """The library's set loss on other predictions, targets or pairs."""
    outputs = {"total": "criterion.total", "pairs": "match.indices", **{n: f"losses.{n}" for n in criterion.names}}
    inputs = {
        **PREDICTIONS,
        "pairs": "match.indices",
        "target_boxes": "match.target_boxes",
        "target_labels": "match.target_labels",
    }
    return Call(inputs, outputs, doc="the set loss of the decoder layers on other predictions, targets or pairs")


def detection_stage(postprocess: Postprocess) -> Stage:
    """Post-processing of the last layer."""
    return Stage(postprocess, {**PREDICTIONS, "image_sizes": "image_sizes"}, ("detections",))


TERMS = ("loss_ce", "loss_bbox", "loss_giou")


def loss_weights(config: Any, published: bool) -> Mapping[str, float]:
    """Factor per loss term."""
    return {
        "loss_ce": 2 if published else 1,
        "loss_bbox": config.bbox_loss_coefficient,
        "loss_giou": config.giou_loss_coefficient,
    }


class Backbone(nn.Module):
    """The library's backbone (its own, or a timm one); ``maps`` are its stages, finest first."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> dict[str, Any]:
        """``maps``: one (B, C, H, W) per stage."""
        found = self.model(pixels)
        return {"maps": list(getattr(found, "feature_maps", found))}
