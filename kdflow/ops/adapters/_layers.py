"""Initialisation shared by the adapters."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from kdflow.errors import UsageError

Init = Literal["default", "small_normal", "zero", "identity", "kaiming"]


@torch.no_grad()
def initialise(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, init: Init) -> None:
    """Set a layer's weights in place.

    ``default`` keeps torch's; ``small_normal`` is a normal of deviation 1e-4 cut off at two deviations, bias as torch's
    (DeFeat); ``zero`` clears weight and bias; ``identity`` passes every channel on unchanged, bias 0; ``kaiming`` is a
    normal for ReLU by fan-out, bias 0.
    """
    if init == "default":
        return
    if init == "small_normal":
        nn.init.trunc_normal_(layer.weight, std=1e-4, a=-2e-4, b=2e-4)
        return
    if init == "kaiming":
        # the weights of a transposed convolution have the input channels first
        mode: Literal["fan_in", "fan_out"] = "fan_in" if isinstance(layer, nn.ConvTranspose2d) else "fan_out"
        nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
    else:
        layer.weight.zero_()
        if init == "identity":
            _pass_on(layer)
    if layer.bias is not None:
        layer.bias.zero_()


def _pass_on(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear) -> None:
    """One at the centre of each output channel's own input."""
    if isinstance(layer, nn.ConvTranspose2d):
        raise UsageError("init: identity is not for transposed: true, which changes the size of a map; leave one of them out")
    weight: Tensor = layer.weight
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    outputs, inputs = weight.shape[0], weight.shape[1] * groups
    if outputs != inputs:
        raise UsageError(f"init: identity needs as many output as input channels, here {outputs} and {inputs}")
    rows = torch.arange(outputs)
    columns = rows % weight.shape[1]
    if weight.dim() == 4:
        weight[rows, columns, weight.shape[2] // 2, weight.shape[3] // 2] = 1
    else:
        weight[rows, columns] = 1


def width(channels: int | None, features: Tensor, like: Tensor | None, dim: int) -> int:
    """Output channels: the option, else those of ``like``, else those of ``features``."""
    if channels is not None:
        return channels
    return int((features if like is None else like).shape[dim])
