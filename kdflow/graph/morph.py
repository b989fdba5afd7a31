"""Weights for a network from those of one of another depth or width, so that its output changes as little as possible.

Residual blocks are known by their layers (those of torchvision, timm, transformers and YOLOX). Where a block has fewer inner
channels, those with the largest norms are kept; where it has more, the new ones begin without effect; a new block begins as the
identity. Every other tensor takes what both have in common: the leading part of each axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Layer:
    """A convolution of a residual block and the norm behind it, by their paths."""

    conv: str
    norm: str


@dataclass(frozen=True)
class Block:
    """A residual block.

    Attributes:
        path: Where it is in the model.
        layers: Its convolutions in order.
        grouped: Some of them have groups, so that channels cannot be chosen one by one.
        keeps: Its input is added as it is, so that without its layers it is the identity.
    """

    path: str
    layers: tuple[Layer, ...]
    grouped: bool
    keeps: bool


def morphed(model: nn.Module, source: State) -> dict[str, Tensor]:
    """Entries of the model's state dict that follow from a source's.

    Args:
        model: With its initial weights, which new channels keep.
        source: State dict of a network of the same kind.

    Returns:
        Name -> new value; entries that the source says nothing about are left out.
    """
    own = {name: value.detach().clone() for name, value in model.state_dict().items()}
    found = {name: _common(value, source[name]) for name, value in own.items() if _comparable(value, source.get(name))}
    for block in residual_blocks(model):
        if not any(name.startswith(f"{block.path}.") for name in source):
            found |= _silent(block, model, own) if block.keeps and _has_sibling(block, source) else {}
        elif not block.grouped:
            found |= _chosen(block, own, source)
    return found


def residual_blocks(model: nn.Module) -> Iterator[Block]:
    """All residual blocks whose layers are known."""
    for path, module in model.named_modules():
        names = tuple(_layers_of(module))
        if len(names) < 2:
            continue
        convs: list[Any] = [module.get_submodule(layer.conv) for layer in names]
        layers = tuple(Layer(f"{path}.{layer.conv}", f"{path}.{layer.norm}") for layer in names)
        yield Block(path, layers, any(conv.groups > 1 for conv in convs), _adds_input(module))


def _layers_of(block: nn.Module) -> Iterator[Layer]:
    """``conv1``, ``bn1`` ... of torchvision and timm, ``conv1.conv`` of YOLOX, ``layer.0.convolution`` of transformers."""
    inner = getattr(block, "layer", None)
    names = [("conv{}", "bn{}"), ("conv{}.conv", "conv{}.bn")]
    count = sum(hasattr(block, f"conv{i}") for i in range(1, 4))
    forms = [[Layer(conv.format(i), norm.format(i)) for i in range(1, count + 1)] for conv, norm in names]
    if isinstance(inner, nn.Sequential):
        forms.append([Layer(f"layer.{i}.convolution", f"layer.{i}.normalization") for i in range(len(inner))])
    skips = any(hasattr(block, word) for word in ("downsample", "shortcut", "add"))
    for layers in forms if skips else ():
        if layers and all(isinstance(_part(block, layer.conv), nn.Conv2d) and _part(block, layer.norm) for layer in layers):
            yield from layers
            return


def _part(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _adds_input(block: nn.Module) -> bool:
    if hasattr(block, "add"):
        return bool(block.add)
    shortcut = getattr(block, "downsample", None) if hasattr(block, "downsample") else getattr(block, "shortcut", None)
    return shortcut is None or isinstance(shortcut, nn.Identity)


def _has_sibling(block: Block, source: State) -> bool:
    """Whether the source has the stage that a new block was added to."""
    stage = block.path.rpartition(".")[0]
    return any(name.startswith(f"{stage}.") for name in source)


def _comparable(own: Tensor, other: Tensor | None) -> bool:
    return other is not None and own.dim() == other.dim()


def _common(own: Tensor, other: Tensor) -> Tensor:
    """``own`` with the leading part that both have taken from ``other``."""
    if own.shape == other.shape:
        return other.to(own)
    part = tuple(slice(min(mine, theirs)) for mine, theirs in zip(own.shape, other.shape, strict=True))
    taken = own.clone()
    taken[part] = other[part].to(own)
    return taken


def _silent(block: Block, model: nn.Module, own: State) -> dict[str, Tensor]:
    """The block's last layer without effect: by its norm where that learns, else by its convolution."""
    last = block.layers[-1]
    norm = model.get_submodule(last.norm)
    learns = isinstance(getattr(norm, "weight", None), nn.Parameter)
    path = last.norm if learns else last.conv
    return {name: torch.zeros_like(own[name]) for name in (f"{path}.weight", f"{path}.bias") if name in own}


def _chosen(block: Block, own: State, source: State) -> dict[str, Tensor]:
    """Weights of a block that exists on both sides, where its inner widths differ."""
    found: dict[str, Tensor] = {}
    kept = [_kept(layer, own, source) for layer, _ in pairwise(block.layers)]
    if all(one is None for one in kept):
        return found
    for layer, rows, columns in zip(block.layers, [*kept, None], [None, *kept], strict=True):
        name = f"{layer.conv}.weight"
        found[name] = _selected(own[name], source[name], rows, columns)
        for entry in own:
            if rows is not None and entry.startswith((f"{layer.norm}.", f"{layer.conv}.bias")) and own[entry].dim() == 1:
                found[entry] = _selected(own[entry], source[entry], rows, None)
    return found


def _kept(layer: Layer, own: State, source: State) -> Tensor | None:
    """Channels of the source that a layer's outputs take over, in order; None where all of them are."""
    filters = source[f"{layer.conv}.weight"]
    width = own[f"{layer.conv}.weight"].shape[0]
    if width == filters.shape[0]:
        return None
    if width > filters.shape[0]:
        return torch.arange(filters.shape[0])
    norms = filters.detach().double().abs().flatten(1).sum(1)
    scale = source.get(f"{layer.norm}.weight")
    norms = norms if scale is None else norms * scale.detach().double().abs()
    best = torch.sort(norms, descending=True, stable=True).indices[:width]
    return torch.sort(best).values


def _selected(own: Tensor, other: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    """``own`` with chosen channels of ``other``; what is new on the input side of old outputs is 0."""
    part = other if rows is None else other[rows]
    part = part if columns is None else part[:, columns]
    taken = own.clone()
    if taken.dim() == 1:
        taken[: len(part)] = part.to(own)
        return taken
    taken[: part.shape[0]] = 0
    taken[: part.shape[0], : part.shape[1]] = part.to(own)
    return taken
