"""A module of a user's own, with class scores in each of the forms that a port may declare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

OPTIONS: dict[str, Any] = {
    "build": "tests.contracts.own_module:OwnModule",
    "family": "two-stage",
    "ports": {
        "neck": {"at": "body", "strides": (16,)},
        "head.logits": {"at": "scores", "form": "sigmoid", "strides": (16,)},
        "roi.logits": {"at": "whole", "form": "softmax"},
    },
}
"""What a bench would say of it."""


class OwnModule(nn.Module):
    """Two scores of every class per place, and one of the whole image with the background last."""

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 16, 16)
        self.scores, self.whole = nn.Conv2d(8, 2 * len(classes), 1), nn.Linear(8, len(classes) + 1)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Losses, or the best class of each image as a box around it."""
        maps = self.body(torch.stack(images))
        scores, whole = self.scores(maps), self.whole(maps.mean((2, 3)))
        if targets is None:
            best, labels = whole[:, :-1].softmax(-1).max(-1)
            sides = [torch.tensor([[0.0, 0.0, image.shape[2], image.shape[1]]]) for image in images]
            return [{"boxes": b, "scores": s[None], "labels": k[None]} for b, s, k in zip(sides, best, labels)]
        first = torch.stack([target["labels"][0] for target in targets])
        return {"image": nn.functional.cross_entropy(whole, first), "places": scores.square().mean()}
