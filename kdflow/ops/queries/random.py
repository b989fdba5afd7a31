"""Queries by chance, the same for both models."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from kdflow.kinds import Queries
from kdflow.operation import op


@op("queries.random", no_grad=True, stochastic=True)
def random(
    like: Queries, count: Annotated[int, Field(gt=0)] = 300, space: Literal["logit_normal", "uniform"] = "logit_normal"
) -> Queries:
    """Boxes drawn anew every step, the same for all images, as ``anchors`` and ``references`` (B, count, 4) cxcywh.

    Only decoders whose queries follow from boxes take them (DAB-DETR, two-stage detectors). Source: KD-DETR (arXiv
    2211.08071), general sampling.

    Args:
        like: A query set whose number of images is taken.
        count: Queries per image.
        space: ``logit_normal`` draws from a normal before the sigmoid (the code), ``uniform`` evenly in 0..1 (the paper).
    """
    example = next(iter(like.values()))
    shape = (count, 4)
    if space == "uniform":
        anchors = torch.rand(shape, device=example.device).clamp(1e-5, 1 - 1e-5).logit()
    else:
        anchors = torch.randn(shape, device=example.device)
    anchors = anchors.to(example.dtype)[None].expand(len(example), -1, -1)
    return {"anchors": anchors, "references": anchors.sigmoid()}
