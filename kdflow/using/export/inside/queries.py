"""DETRs: their queries, decoded as the image processors of their library do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdflow.detectors.hf_parts import Postprocess
from kdflow.errors import UsageError
from kdflow.ports import Detector
from kdflow.using.export.inside.candidates import Canvas, Found, Size, Suppression, pick


class SetCandidates(nn.Module):
    """A DETR at a fixed size.

    Raises:
        UsageError: Its image processor's decoding is not known.
    """

    mask: Tensor

    def __init__(self, detector: Detector, size: Size, canvas: Size) -> None:
        super().__init__()
        prepare, postprocess = (detector.stages[name].run for name in ("normalize", "postprocess"))
        if not isinstance(postprocess, Postprocess) or postprocess.processor not in DECODERS:
            raise UsageError(f"{detector.name}: how its library decodes detections has no ONNX form here")
        self.model = detector.model
        self.prepare = Canvas(getattr(prepare, "normalize", None), canvas)
        self.decode = DECODERS[postprocess.processor]
        self.options = dict(postprocess.options)
        self.size = size
        mask = torch.zeros(1, *canvas, dtype=torch.long)
        mask[:, : size[0], : size[1]] = 1
        self.register_buffer("mask", mask, persistent=False)
        self.suppression = Suppression()

    def forward(self, pictures: Tensor) -> Found:
        """Candidates of (N, 3, height, width) pictures in 0..1, resized and not padded."""
        pixels = self.prepare(pictures)
        outputs = self.model(pixel_values=pixels, pixel_mask=self.mask.expand(pixels.shape[0], -1, -1))
        scores, labels, queries = self.decode(outputs.logits, self.options)
        boxes = outputs.pred_boxes if queries is None else pick(outputs.pred_boxes, queries)
        centre, half = boxes[..., :2], boxes[..., 2:] / 2
        scale = boxes.new_tensor([self.size[1], self.size[0]] * 2)
        return torch.cat([centre - half, centre + half], -1) * scale, scores, labels


Decoded = tuple[Tensor, Tensor, "Tensor | None"]
"""Scores and labels, (N, C), and the queries that they are of; None: all, in their order."""


def _softmax(logits: Tensor, options: Mapping[str, Any]) -> Decoded:
    """A class per query; the last one is the background."""
    del options
    scores, labels = logits.softmax(-1)[..., :-1].max(-1)
    return scores, labels, None


def _best_pairs(logits: Tensor, options: Mapping[str, Any]) -> Decoded:
    """The best pairs of query and class, as many as ``top_k``, else as queries."""
    queries, classes = int(logits.shape[1]), int(logits.shape[2])
    count = min(options.get("top_k") or queries, queries * classes)
    scores, chosen = logits.sigmoid().flatten(1).topk(count, dim=1)
    return scores, chosen % classes, chosen // classes


def _focal_or_softmax(logits: Tensor, options: Mapping[str, Any]) -> Decoded:
    return _best_pairs(logits, {}) if options.get("use_focal_loss", True) else _softmax(logits, options)


DECODERS: Mapping[str, Callable[[Tensor, Mapping[str, Any]], Decoded]] = {
    "DetrImageProcessor": _softmax,
    "ConditionalDetrImageProcessor": _best_pairs,
    "DeformableDetrImageProcessor": _best_pairs,
    "RTDetrImageProcessor": _focal_or_softmax,
    "RfDetrImageProcessor": _best_pairs,
}
