"""Where a map looks like something."""

from __future__ import annotations

import torch
from torch import Tensor

from kdflow.functional.precision import in_full
from kdflow.functional.statistics import unit


@in_full
def query_map(features: Tensor, queries: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum over queries of their cosine with every place: ``sum_e w_e <h_e/|h_e|, F(y,x)/|F(y,x)|>``.

    Args:
        features: (B, C, H, W).
        queries: (B, Q, C).
        weights: (B, Q).

    Returns:
        (B, 1, H, W).
    """
    direction = (unit(queries, (2,)) * weights[..., None]).sum(1)
    return torch.einsum("bc,bchw->bhw", direction, unit(features, (1,)))[:, None]


def floored_over_maximum(values: Tensor, floor: float) -> Tensor:
    """``max(values, floor)`` over its largest value per image, (B, 1, H, W)."""
    raised = values.clamp(min=floor)
    return raised / raised.amax((1, 2, 3), keepdim=True)


def spatial_attention(features: Tensor, temperature: float) -> Tensor:
    """``H*W * softmax_yx(mean_c |F| / T)``: (B, C, H, W) -> (B, 1, H, W), with mean 1 over the places."""
    strength = features.abs().mean(1, keepdim=True)
    flat = strength.flatten(1) / temperature
    return (flat.softmax(1) * flat.shape[1]).reshape(strength.shape)


def channel_attention(features: Tensor, temperature: float, over: tuple[int, ...] = (2, 3)) -> Tensor:
    """``C * softmax_c(mean |F| / T)`` with the mean over the dimensions ``over``: (B, C, H, W) -> (B, C), mean 1."""
    strength = features.abs().mean(over) if over else features.abs()
    return (strength / temperature).softmax(1) * features.shape[1]


def attention_weights(logits: Tensor, visible: Tensor | None = None) -> Tensor:
    """Softmax over the last axis, 0 on hidden places; all places weigh the same where an image has none to see.

    Args:
        logits: (B, h, Q, K).
        visible: (B, K) 0 on hidden places; None hides none.
    """
    if visible is not None:
        logits = logits.masked_fill(visible[:, None, None] <= 0, torch.finfo(logits.dtype).min)
    return logits.softmax(-1)
