"""Port names that mean the same in every detector that offers them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kdflow import kinds as k
from kdflow.kinds import Kind


@dataclass(frozen=True)
class StandardPort:
    """A port name that means the same in every detector that offers it.

    Attributes:
        kind: Kind of the value.
        node: Part of the taxonomy node behind the root: in a CNN detector the first, in a transformer the second.
        doc: One line.
    """

    kind: Kind
    node: tuple[str | None, str | None]
    doc: str


def _ports() -> dict[str, StandardPort]:
    backbone, neck, head = (
        ("cnn/backbone", "transformer/feature"),
        ("cnn/neck", "transformer/feature"),
        ("cnn/head", None),
    )
    roi, query, logit = ("cnn/rpn-roi", None), (None, "transformer/query"), (None, "transformer/logit")
    feature, none = (None, "transformer/feature"), (None, None)
    rows: dict[str, tuple[Kind, tuple[str | None, str | None], str]] = {
        "backbone": (k.PYRAMID, backbone, "backbone stages C2..C5 (those the neck reads)"),
        "neck": (k.PYRAMID, neck, "maps after cross-level fusion or input projection, finest first"),
        "detections": (k.DETECTIONS, none, "final boxes, scores and labels"),
        "rpn.logits": (k.DENSE, roi, "objectness, (B, H*W*A, 1) per level"),
        "rpn.deltas": (k.DENSE, roi, "box deltas of the RPN, (B, H*W*A, 4) per level"),
        "rpn.anchors": (k.PRIORS, none, "anchors, (H*W*A, 4) xyxy per level"),
        "rpn.labels": (k.DENSE_VALUES, none, "sampled anchors of the RPN loss: 1, 0, and -1 for not sampled"),
        "rpn.targets": (k.DENSE, none, "deltas from each anchor to the object that it is matched with, (B, H*W*A, 4)"),
        "rpn.proposals": (k.BOXES, none, "proposals after NMS, per image"),
        "rpn.scores": (k.SCORES, none, "their objectness scores, per image"),
        "roi.boxes": (k.BOXES, none, "sampled proposals, ground truth appended, per image"),
        "roi.labels": (k.ROW_VALUES, none, "(N,) class of each sampled proposal; the background is K"),
        "roi.positive": (k.ROW_VALUES, none, "(N,) True where the sampled proposal is an object"),
        "roi.negative": (k.ROW_VALUES, none, "(N,) True where the sampled proposal is background"),
        "roi.matched_boxes": (k.BOXES, none, "ground-truth box of each sampled proposal, per image"),
        "roi.levels": (k.ROW_VALUES, none, "(N,) pyramid level each proposal is pooled from"),
        "roi.features": (k.ROW_BLOCKS, roi, "pooled (N, C, 7, 7) blocks"),
        "roi.fc1": (k.ROWS, roi, "(N, D) first layer of the box head before its ReLU"),
        "roi.fc2": (k.ROWS, roi, "(N, D) second layer of the box head before its ReLU"),
        "roi.embedding": (k.ROWS, roi, "(N, D) output of the box head before the predictors"),
        "roi.logits": (k.ROWS, roi, "(N, K+1) class scores, background last"),
        "roi.deltas": (k.ROWS, roi, "(N, 4(K+1)) box deltas per class, background last"),
        "head.cls_tower": (k.PYRAMID, head, "last block of the classification tower, after its activation"),
        "head.box_tower": (k.PYRAMID, head, "last block of the box tower, after its activation"),
        "head.logits": (k.DENSE, head, "(B, H*W*A, K) class scores per level"),
        "head.deltas": (k.DENSE, head, "(B, H*W*A, 4) box regression outputs per level"),
        "head.distribution": (k.DENSE, head, "(B, H*W, 4*(n+1)) edge distribution logits, edge-major, per level"),
        "head.centerness": (k.DENSE_VALUES, head, "(B, H*W) centerness or IoU logits per level"),
        "head.objectness": (k.DENSE_VALUES, head, "(B, H*W) objectness logits per level"),
        "head.boxes": (k.DENSE, head, "decoded boxes, (B, H*W*A, 4) xyxy per level"),
        "head.priors": (k.PRIORS, none, "anchors or cell boxes, (H*W*A, 4) xyxy per level"),
        "assign.labels": (k.DENSE_VALUES, none, "(B, H*W*A) assigned class; K background, -1 ignored"),
        "assign.positive": (k.DENSE_VALUES, none, "(B, H*W*A) True where a place is assigned to an object"),
        "assign.weights": (
            k.DENSE_VALUES,
            none,
            "(B, H*W*A) 1 where a place is trained on, 0 where ignored or padding",
        ),
        "assign.matched_boxes": (k.DENSE, none, "(B, H*W*A, 4) ground-truth box of each place, zeros where none"),
        "encoder.inputs": (k.PYRAMID, feature, "maps that enter the transformer's encoder"),
        "encoder.memory": (k.PYRAMID, feature, "encoder outputs as maps, finest first"),
        "decoder.queries": (k.QUERIES, none, "queries without the denoising part: content, position, references"),
        "decoder.references": (k.LAYERS, query, "reference boxes or points of each layer, in 0..1"),
        "decoder.states": (k.LAYERS, query, "(B, N, D) hidden states of each layer"),
        "decoder.logits": (k.LAYERS, logit, "(B, N, K) class scores of each layer"),
        "decoder.boxes": (k.LAYERS, logit, "(B, N, 4) boxes of each layer, cxcywh normalised by the unpadded image"),
        "decoder.self_attention": (k.ATTENTIONS, query, "(B, h, N, N) per layer"),
        "decoder.cross_attention": (k.ATTENTIONS, query, "cross-attention weights per layer"),
        "match.indices": (k.PAIRS, none, "per layer and image: matched (query, target) indices"),
    }
    return {name: StandardPort(*row) for name, row in rows.items()}


STANDARD_PORTS: Mapping[str, StandardPort] = _ports()


def standard_of(name: str) -> StandardPort | None:
    """The standard that a port name follows: ``head.cls_tower.2`` (a block of a tower) follows ``head.cls_tower``."""
    return STANDARD_PORTS.get(name) or STANDARD_PORTS.get(name.rpartition(".")[0])
