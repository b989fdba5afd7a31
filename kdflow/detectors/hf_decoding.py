"""How the decoders of the transformers library are called: maps as tokens, query sets, attention weights.

A query set (kind ``queries``) is a dict with some of these entries; which of them a family reads is said in its file:
``content`` (B, N, D); ``position`` (B, N, D); ``references`` (B, N, 2 or 4), points or cxcywh boxes in 0..1; ``anchors``, the
same before the sigmoid, read instead of ``references`` where present (own queries carry both, so that nothing is rounded);
``real`` (B, N), 0 for queries that only fill up an image's set (:func:`only_real`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from kdflow.detectors.caches import remembered
from kdflow.errors import UsageError

QuerySet = Mapping[str, Tensor]


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

    def keywords(self) -> dict[str, Any]:
        """What the library's encoders and decoders are told of the maps."""
        return {"spatial_shapes": self.shapes, "spatial_shapes_list": self.sizes, "level_start_index": self.starts}


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


def inside_of(features: Tensor, mask: Tensor) -> Tensor:
    """(B, h, w) True for places of a map inside their image; ``mask`` (B, H, W) is 1 inside the images."""
    return interpolate(mask[None].float(), size=features.shape[-2:]).to(torch.bool)[0]


class Levels(NamedTuple):
    """What is known of several maps beside their features.

    Attributes:
        grid: Their sizes.
        inside: (B, S) True for tokens inside their image.
        ratios: (B, levels, 2) share of width and height of each map that lies inside the image.
    """

    grid: Grid
    inside: Tensor
    ratios: Tensor

    def keywords(self) -> dict[str, Any]:
        """What the library's encoders and decoders are told of the maps, apart from ``inside``, which each calls otherwise."""
        return {**self.grid.keywords(), "valid_ratios": self.ratios}


def levels_of(core: Any, maps: Sequence[Tensor], insides: Sequence[Tensor]) -> Levels:
    """Of maps and the places inside their images (:func:`inside_of`); ``core`` is the library's model, which knows the ratios."""
    ratios = [core.get_valid_ratio(inside, dtype=maps[0].dtype) for inside in insides]
    return Levels(grid_of(maps), torch.cat([i.flatten(1) for i in insides], 1), torch.stack(ratios, 1))


def unsigmoid(value: Tensor, eps: float = 1e-5) -> Tensor:
    """Inverse sigmoid of values in 0..1, both odds bounded below by ``eps`` as the DETR family does."""
    value = value.clamp(0, 1)
    return torch.log(value.clamp(min=eps) / (1 - value).clamp(min=eps))


def anchors_of(queries: QuerySet) -> Tensor | None:
    """The boxes of a query set before the sigmoid."""
    anchors, references = queries.get("anchors"), queries.get("references")
    return unsigmoid(references) if anchors is None and references is not None else anchors


def unreadable(wanted: str, queries: QuerySet) -> UsageError:
    """The fault of a query set that lacks what a decoder reads."""
    found = ", ".join(f"{key} {tuple(value.shape)}" for key, value in queries.items()) or "nothing"
    return UsageError(f"this decoder reads query {wanted}; these queries have {found}. Put an adapter between")


def read_queries(tokens: Tensor, queries: QuerySet, content: Tensor | None, boxes: Tensor | None) -> tuple[Tensor, Tensor]:
    """Content (B, N, D) and boxes (B, N, 4) of a query set; UsageError where one is missing or of another width."""
    width = tokens.shape[-1]
    if content is None or boxes is None or (content.shape[-1], boxes.shape[-1]) != (width, 4):
        raise unreadable(f"content (B, N, {width}) and references (B, N, 4)", queries)
    return content, boxes


@contextmanager
def only_real(decoder: Any, queries: QuerySet) -> Iterator[None]:
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


class DecoderStage(nn.Module):
    """All layers of one of the library's decoders.

    Args:
        decoder: The library's.
        attention: Hand out attention weights too (needs eager attention, where the library has another).
    """

    def __init__(self, decoder: Any, attention: bool) -> None:
        super().__init__()
        self.decoder, self.attention = decoder, attention

    def called(self, queries: QuerySet, **inputs: Any) -> Any:
        """The library's output, in which no query sees those that are not ``real``."""
        with only_real(self.decoder, queries):
            return self.decoder(**inputs, **({"output_attentions": True} if self.attention else {}))

    def weights(self, out: Any, sampled: bool, skip: int = 0) -> dict[str, Any]:
        """Attention weights, where they are handed out; see :func:`attention_weights`."""
        return attention_weights(out, sampled, skip) if self.attention else {}


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
