"""Modules that the transformer detectors share: normalising, features, targets, post-processing.

A query set (kind ``queries``) is a dict with some of these entries; which of them a family reads is said in its file:
``content`` (B, N, D); ``position`` (B, N, D); ``references`` (B, N, 2 or 4), points or cxcywh boxes in 0..1; ``anchors``, the
same before the sigmoid, read instead of ``references`` where present (own queries carry both, so that nothing is rounded);
``real`` (B, N), 0 for queries that only fill up an image's set (:func:`only_real`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdflow.detectors.caches import remembered
from kdflow.detectors.normalize import Normalize
from kdflow.errors import UsageError
from kdflow.ports import ImageSizes

Labels = list[dict[str, Tensor]]


class Grid(NamedTuple):
    """Sizes of the maps behind flattened tokens.

    Attributes:
        sizes: (height, width) per level, finest first.
        shapes: The same as an integer tensor (levels, 2).
        starts: Index of each level's first token, (levels,).
        known: ``shapes`` on the host, for code that looks at their values.
    """

    sizes: list[tuple[int, int]]
    shapes: Tensor
    starts: Tensor
    known: Tensor


def grid_of(maps: Sequence[Tensor]) -> Grid:
    """The grid of maps (B, C, H, W)."""
    sizes = tuple((int(m.shape[-2]), int(m.shape[-1])) for m in maps)
    return _grid(sizes, maps[0].device)


@remembered(256)
def _grid(sizes: tuple[tuple[int, int], ...], device: torch.device) -> Grid:
    """Made once per canvas: its numbers travel to the device only once."""
    known = torch.as_tensor(sizes, dtype=torch.long)
    shapes = known.to(device)
    return Grid(list(sizes), shapes, torch.cat((shapes.new_zeros((1,)), shapes.prod(1).cumsum(0)[:-1])), known)


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


@contextmanager
def only_real(decoder: Any, queries: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, no query of the decoder attends to queries that are not ``real``: these change nothing but their own results.

    Args:
        decoder: The library's decoder; its layers' ``self_attn`` takes an additive ``attention_mask``.
        queries: A query set; without ``real`` all queries see each other.
    """
    real = queries.get("real")
    if real is None:
        yield
        return

    def hide(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        states: Tensor = args[0] if args else kwargs["hidden_states"]
        every = states.shape[1]
        mask = states.new_zeros(len(states), 1, 1, every)
        # finite, since a set may have no real query; in front stand those that a detector adds for its own losses
        mask[..., every - real.shape[1] :] = (real[:, None, None] == 0) * (torch.finfo(states.dtype).min / 2)
        if (given := kwargs.get("attention_mask")) is not None:
            mask = mask + given
        return args, {**kwargs, "attention_mask": mask.expand(-1, -1, every, -1)}

    hooks = [layer.self_attn.register_forward_pre_hook(hide, with_kwargs=True) for layer in decoder.layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


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


class Everything:
    """A threshold that everything passes: ``scores[scores > Everything()]`` is all of them, by no mask that the host reads."""

    def __lt__(self, scores: object) -> slice:
        return slice(None)


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
        return processor.post_process_object_detection(outputs, threshold=Everything(), target_sizes=sizes, **self.options)

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
