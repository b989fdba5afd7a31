"""Stages of the single-scale transformers of the library: DETR, Conditional DETR, DAB-DETR."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdflow.detectors.hf_decoding import DecoderStage, anchors_of, inside_of, unflatten, unreadable, unsigmoid


class Layout(NamedTuple):
    """What the transformer knows of the one map beside its features.

    Attributes:
        sizes: Its (height, width), in a list.
        inside: (B, HW) True for tokens inside their image.
        positions: (B, HW, D) position codes.
    """

    sizes: list[tuple[int, int]]
    inside: Tensor
    positions: Tensor


def tokens_of(maps: list[Tensor]) -> Tensor:
    """The one map as tokens (B, HW, D), as a view: dropout draws in memory order, so a copy would draw other numbers."""
    (features,) = maps
    return features.flatten(2).transpose(1, 2)


class Layouts(nn.Module):
    """Padding mask and position codes.

    Args:
        position: The library's position code.
        by_map: It takes the map itself (DAB-DETR) instead of its shape.
    """

    def __init__(self, position: nn.Module, by_map: bool = False) -> None:
        super().__init__()
        self.position, self.by_map = position, by_map

    def forward(self, maps: list[Tensor], mask: Tensor, pixels: Tensor) -> dict[str, Any]:
        """``layout`` for a map of this size; ``mask`` (B, H, W) is 1 inside the images; ``pixels`` gives the precision."""
        (features,) = maps
        inside = inside_of(features, mask)
        if self.by_map:
            codes = self.position(features, inside).to(pixels.dtype)
        else:
            codes = self.position(shape=features.shape, device=features.device, dtype=pixels.dtype, mask=inside)
        size = (int(features.shape[-2]), int(features.shape[-1]))
        return {"layout": Layout([size], inside.flatten(1), codes.flatten(2).transpose(1, 2))}


class Encoder(nn.Module):
    """Self-attention over the map's tokens.

    Args:
        encoder: The library's encoder.
        codes: Its name for the position codes.
    """

    def __init__(self, encoder: nn.Module, codes: str) -> None:
        super().__init__()
        self.encoder, self.codes = encoder, codes

    def forward(self, maps: list[Tensor], layout: Layout) -> dict[str, Any]:
        """``maps``: the memory as one map."""
        codes = {self.codes: layout.positions}
        memory = self.encoder(inputs_embeds=tokens_of(maps), attention_mask=layout.inside, **codes).last_hidden_state
        return {"maps": unflatten(memory, layout.sizes)}


class Queries(nn.Module):
    """The learned queries.

    Args:
        embedding: Positions (N, D), or boxes before the sigmoid (N, 4).
        boxes: They are boxes.
        patterns: Learned contents that are combined with every box; None for content 0.
    """

    def __init__(self, embedding: nn.Embedding, boxes: bool = False, patterns: nn.Embedding | None = None) -> None:
        super().__init__()
        self.embedding, self.boxes, self.patterns = embedding, boxes, patterns

    def forward(self, tokens: Tensor) -> dict[str, Any]:
        """``queries``: content (B, N, D), and position (B, N, D) or references and anchors (B, N, 4)."""
        batch, width = len(tokens), tokens.shape[-1]
        learned = self.embedding.weight.unsqueeze(0).repeat(batch, 1, 1)
        if self.patterns is None:
            content = learned.new_zeros(batch, learned.shape[1], width)
        else:
            content = (
                self.patterns.weight[:, None, None].repeat(1, learned.shape[1], batch, 1).flatten(0, 1).transpose(0, 1)
            )
            learned = learned.repeat(1, len(self.patterns.weight), 1)
        if self.boxes:
            return {"queries": {"content": content, "references": learned.sigmoid(), "anchors": learned}}
        return {"queries": {"content": content, "position": learned}}


class Decoder(DecoderStage):
    """All decoder layers of DETR and Conditional DETR; a query is a position, its content starts at 0."""

    def forward(self, queries: dict[str, Tensor], tokens: Tensor, layout: Layout) -> dict[str, Any]:
        """Per layer states (B, N, D); ``stack``, what the heads read of earlier layers; ``references`` if there are any."""
        position = queries.get("position")
        if position is None or position.shape[-1] != tokens.shape[-1]:
            raise unreadable(f"positions (B, N, {tokens.shape[-1]})", queries)
        every = self.decoder.config.auxiliary_loss
        out = self.called(
            queries,
            inputs_embeds=queries.get("content", torch.zeros_like(position)),
            attention_mask=None,
            spatial_position_embeddings=layout.positions,
            object_queries_position_embeddings=position,
            encoder_hidden_states=tokens,
            encoder_attention_mask=layout.inside,
            **({} if every else {"output_hidden_states": True}),
        )
        if every:
            stack = out.intermediate_hidden_states
        else:
            stack = torch.stack([*(self.decoder.layernorm(h) for h in out.hidden_states[1:-1]), out.last_hidden_state])
        result = {"states": [*stack.unbind()[:-1], out.last_hidden_state], "stack": stack}
        points = getattr(out, "reference_points", None)
        if points is not None:
            result["references"] = [points.transpose(0, 1)] * len(stack)
        return {**result, **self.weights(out, sampled=False)}


class Heads(nn.Module):
    """Class and box heads of DETR and Conditional DETR, shared by all layers.

    Args:
        classes: Class head.
        boxes: Box head.
    """

    def __init__(self, classes: nn.Module, boxes: nn.Module) -> None:
        super().__init__()
        self.classes, self.boxes = classes, boxes

    def forward(self, states: list[Tensor], stack: Tensor, references: list[Tensor] | None = None) -> dict[str, Any]:
        """Per layer logits (B, N, K or K+1) and boxes (B, N, 4), cxcywh."""
        logits = self.classes(states[-1])
        start = None if references is None else unsigmoid(references[-1])
        boxes = self.shifted(states[-1], start)
        # the last entry of the stack is not used, but the library computes the others together with it
        earlier = self.classes(stack).unbind()[:-1]
        before = (
            self.boxes(stack).sigmoid().unbind()
            if start is None
            else [self.shifted(s, start) for s in stack.unbind()[:-1]]
        )
        return {"logits": [*earlier, logits], "boxes": [*before[: len(earlier)], boxes]}

    def shifted(self, state: Tensor, start: Tensor | None) -> Tensor:
        """Boxes of one layer, their centres relative to the reference points."""
        change = self.boxes(state)
        if start is not None:
            change = torch.cat([(change[..., :2] + start).to(change.dtype), change[..., 2:]], -1)
        return change.sigmoid()


class AnchorDecoder(DecoderStage):
    """All decoder layers of DAB-DETR; a query is a box, which every layer refines."""

    def forward(self, queries: dict[str, Tensor], tokens: Tensor, layout: Layout) -> dict[str, Any]:
        """Per layer states (B, N, D) and input references (B, N, 4); both also as ``stack`` and ``boxes`` for the heads."""
        anchors, content = anchors_of(queries), queries.get("content")
        if anchors is None or anchors.shape[-1] != 4:
            raise unreadable("references (B, N, 4)", queries)
        if content is None or content.shape[-1] != tokens.shape[-1]:
            content = tokens.new_zeros(*anchors.shape[:2], tokens.shape[-1])
        out = self.called(
            queries,
            inputs_embeds=content,
            query_position_embeddings=anchors,
            object_queries=layout.positions,
            encoder_hidden_states=tokens,
            memory_key_padding_mask=layout.inside,
            return_dict=True,
        )
        stack, points = out.intermediate_hidden_states, out.reference_points
        return {
            "states": list(stack.unbind()),
            "references": list(points.unbind()),
            "stack": stack,
            "points": points,
            **self.weights(out, sampled=False),
        }


class AnchorHeads(nn.Module):
    """Class and box heads of DAB-DETR, shared by all layers."""

    def __init__(self, classes: nn.Module, boxes: nn.Module) -> None:
        super().__init__()
        self.classes, self.boxes = classes, boxes

    def forward(self, states: list[Tensor], stack: Tensor, points: Tensor) -> dict[str, Any]:
        """Per layer logits (B, N, K) and boxes (B, N, 4), cxcywh."""
        last = self.classes(states[-1])
        change = self.boxes(stack)
        boxes = (change + unsigmoid(points)).to(change.dtype).sigmoid()  # the library adds in place
        return {"logits": [*self.classes(stack).unbind()[:-1], last], "boxes": list(boxes.unbind())}
