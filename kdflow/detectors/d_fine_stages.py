"""Stages of D-FINE in the transformers library.

In evaluation mode the library computes the heads of the last layer only. The decoder stage here asks for all layers in both modes
(the decoder's own training flag does that; its dropout and norms keep their mode), so a teacher offers every layer.

The library's auxiliary losses (5.23) pair lists of unequal length: entry 0 holds the predictions made before the first
refinement with the distributions of layer 0, entry i the predictions of layer i-1 with the distributions of layer i. The
same is done here, so that its losses are met; the term names say the entry, as in the library.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kdflow.detectors import rt_stages as rt
from kdflow.detectors.hf_decoding import Grid
from kdflow.detectors.hf_loss import Match, Pairs, SetLoss
from kdflow.detectors.hf_parts import to_labels
from kdflow.detectors.loss_terms import LossTerms
from kdflow.detectors.rt_loss import Union, object_count
from kdflow.ports import ImageSizes

EDGE_TERMS = ("loss_fgl", "loss_ddf")


class Decoder(rt.Decoder):
    """RT-DETR's decoder stage, which also gives ``first`` (the prediction before any refinement), ``corners`` and ``starts``."""

    def forward(self, *args: Any, **values: Any) -> dict[str, Any]:
        """See :class:`kdflow.detectors.rt_stages.Decoder`; ``corners`` (B, N, 4 * (bins + 1)), ``starts`` (B, N, 4) per layer."""
        mode = self.decoder.training
        self.decoder.training = True
        try:
            result = super().forward(*args, **values)
        finally:
            self.decoder.training = mode
        if not mode:  # sums depend on memory order; in evaluation mode the library has the last layer alone in memory
            result |= {name: [x.contiguous() for x in result[name]] for name in ("logits", "boxes")}
        return result

    def shapes(self, grid: Grid) -> Tensor:
        """On the host: each layer of the library looks whether they fit, and would wait for the device; none reads them else."""
        return grid.known

    def layered(self, out: Any, anchors: Tensor) -> dict[str, Sequence[Tensor]]:
        """The library's output as lists over layers, of all queries."""
        logits, boxes = out.intermediate_logits.unbind(1), out.intermediate_reference_points.unbind(1)
        return {
            "states": out.intermediate_hidden_states.unbind(0),
            "logits": logits[1:],
            "boxes": boxes[1:],
            "references": [anchors.sigmoid(), *(b.detach() for b in boxes[1:-1])],
            "corners": out.intermediate_predicted_corners.unbind(1),
            "starts": out.initial_reference_points.unbind(1),
            "first": (logits[0], boxes[0]),
        }

    def infer(self, *args: Any, **values: Any) -> dict[str, Any]:
        """Shapes from the queries and the configuration."""
        result = super().infer(*args, **values)
        logits, boxes = result["logits"], result["boxes"]
        edges = 4 * (self.decoder.max_num_bins + 1)
        corners = [b.new_empty(*b.shape[:2], edges) for b in boxes]
        return {**result, "first": [logits[0], boxes[0]], "corners": corners, "starts": list(boxes)}


def library_layers(
    first: Sequence[Tensor],
    logits: Sequence[Tensor],
    boxes: Sequence[Tensor],
    corners: Sequence[Tensor],
    starts: Sequence[Tensor],
    count: int,
) -> list[dict[str, Tensor]]:
    """The first ``count`` auxiliary outputs as the library composes them (see the top of this file)."""
    before = [(first[0], first[1]), *zip(logits, boxes)]
    return [
        {
            "logits": scores,
            "pred_boxes": found.clamp(min=0, max=1),
            "pred_corners": edges,
            "ref_points": start,
            "teacher_corners": corners[-1],
            "teacher_logits": logits[-1],
        }
        for (scores, found), edges, start in list(zip(before, corners, starts))[:count]
    ]


class LayerLoss(LossTerms):
    """The library's auxiliary losses of the decoder, with the distribution terms."""

    def __init__(self, loss: SetLoss, layers: int) -> None:
        super().__init__()
        self.names = tuple(f"{name}_aux_{i}" for i in range(layers - 1) for name in (*loss.names, *EDGE_TERMS))
        self.loss = loss

    def forward(
        self,
        first: list[Tensor],
        logits: list[Tensor],
        boxes: list[Tensor],
        corners: list[Tensor],
        starts: list[Tensor],
        pairs: Pairs,
        first_pairs: Pairs,
        target_boxes: list[Tensor],
        target_labels: list[Tensor],
        image_sizes: ImageSizes,
        union: Union | None = None,
    ) -> dict[str, Any]:
        """Scalars by name; ``union`` are the pairs that boxes are compared on, where they are not a layer's own."""
        labels = to_labels(target_boxes, target_labels, image_sizes)
        criterion, divisor = self.loss.make(), object_count(target_labels)
        terms: dict[str, Any] = {}
        layers = library_layers(first, logits, boxes, corners, starts, len(logits) - 1)
        for i, (outputs, found) in enumerate(zip(layers, [*first_pairs, *pairs])):
            terms |= criterion.layer(outputs, labels, found, divisor, f"_aux_{i}", union and union.pair)
        return terms


class FirstMatch(Match):
    """Assignment for the prediction made before any refinement."""

    def costs(self, first: list[Tensor], **targets: Any) -> list[Tensor]:  # type: ignore[override]
        """Of the one layer."""
        return super().costs([first[0]], [first[1]], **targets)

    def infer(self, first: list[Tensor], **targets: Any) -> dict[str, Any]:  # type: ignore[override]
        """See :class:`kdflow.detectors.hf_loss.Match`."""
        return super().infer([first[0]], **targets)


class DenoisingLoss(rt.DenoisingLoss):
    """RT-DETR's loss on the denoising queries, with the distribution terms."""

    def layers(self, denoised: dict[str, Any]) -> list[dict[str, Tensor]]:
        """What the library's loss reads of each layer."""
        first, logits, boxes = denoised["first"], denoised["logits"], denoised["boxes"]
        corners, starts = denoised["corners"], denoised["starts"]
        return library_layers(first, logits, boxes, corners, starts, len(corners))
