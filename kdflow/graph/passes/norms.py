"""BatchNorm layers that see one value per channel and image: with one image per step they cannot be trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def lonely_norms(module: nn.Module, images: int) -> Iterator[list[str]]:
    """Names of layers whose input has one value per channel and image, gathered while ``module`` runs on ``images`` images."""
    found: list[str] = []
    hooks = [
        layer.register_forward_pre_hook(partial(_look, name, images, found))
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _look(name: str, images: int, found: list[str], layer: _BatchNorm, args: tuple[Any, ...]) -> None:
    values = args[0].numel()
    if isinstance(values, int) and values == images * layer.num_features and name not in found:
        found.append(name)
