"""Stages of Deformable DETR in the transformers library."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdflow.detectors.hf_decoding import (
    DecoderStage,
    Levels,
    anchors_of,
    flatten,
    inside_of,
    levels_of,
    unflatten,
    unreadable,
    unsigmoid,
)


class Layout(NamedTuple):
    """What the transformer knows of the levels beside their features.

    Attributes:
        levels: Sizes and padding.
        positions: (B, S, D) position plus level code.
    """

    levels: Levels
    positions: Tensor


class Layouts(nn.Module):
    """Padding masks, positions and valid ratios of the levels."""

    def __init__(self, core: Any) -> None:
        super().__init__()
        self.position, self.level_embed = core.position_embedding, core.level_embed
        self.own = len(core.backbone.intermediate_channel_sizes)
        self._core = (core,)  # in a tuple, so that this stage owns its own layers alone

    def forward(self, maps: list[Tensor], mask: Tensor, pixels: Tensor) -> dict[str, Any]:
        """``layout`` for maps of these sizes; ``mask`` (B, H, W) is 1 inside the images; of ``pixels`` only the precision counts.

        Under autocast the library keeps the positions of the backbone's levels in the images' precision, those of further
        levels in the maps'.
        """
        insides = [inside_of(m, mask) for m in maps]
        positions = [
            self.position(shape=m.shape, device=m.device, dtype=pixels.dtype, mask=inside)
            for m, inside in zip(maps, insides)
        ]
        positions = [p if i < self.own else p.to(m.dtype) for i, (p, m) in enumerate(zip(positions, maps))]
        coded = [p.flatten(2).transpose(1, 2) + level for p, level in zip(positions, self.level_embed)]
        return {"layout": Layout(levels_of(self._core[0], maps, insides), torch.cat(coded, 1))}


class Encoder(nn.Module):
    """Deformable attention over all levels."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, maps: list[Tensor], layout: Layout) -> dict[str, Any]:
        """``maps``: the memory, of the same sizes."""
        memory = self.encoder(
            inputs_embeds=flatten(maps),
            attention_mask=layout.levels.inside,
            spatial_position_embeddings=layout.positions,
            **layout.levels.keywords(),
        ).last_hidden_state
        return {"maps": unflatten(memory, layout.levels.grid.sizes)}


class Learned(nn.Module):
    """The learned queries of the one-stage model."""

    def __init__(self, core: Any) -> None:
        super().__init__()
        self.embedding, self.points = core.query_position_embeddings, core.reference_points

    def forward(self, tokens: Tensor) -> dict[str, Any]:
        """``queries``: content, position, and reference points (B, N, 2) with gradient."""
        position, content = torch.split(self.embedding.weight, tokens.shape[-1], dim=1)
        position, content = (e.unsqueeze(0).expand(len(tokens), -1, -1) for e in (position, content))
        return {"queries": {"content": content, "position": position, "references": self.points(position).sigmoid()}}


class Proposals(nn.Module):
    """Scores every encoder token and takes the best boxes as queries (two-stage)."""

    def __init__(self, core: Any) -> None:
        super().__init__()
        self.project, self.norm = core.enc_output, core.enc_output_norm
        self.score, self.box = core.decoder.class_embed[-1], core.decoder.bbox_embed[-1]
        self.encode = BoxEncoding(core)
        self.config = core.config
        self._core = (core,)

    def forward(self, tokens: Tensor, layout: Layout) -> dict[str, Any]:
        """The queries, their token indices, and logits and boxes (one-entry stacks, with gradient) of every token."""
        levels = layout.levels
        memory, anchors = self._core[0].gen_encoder_output_proposals(tokens, ~levels.inside, levels.grid.sizes)
        logits = self.score(memory)
        boxes = self.box(memory) + anchors
        indices = torch.topk(logits[..., 0], self.config.two_stage_num_proposals, dim=1)[1]
        best = torch.gather(boxes, 1, indices.unsqueeze(-1).repeat(1, 1, 4)).detach()
        position, content = self.encode(best)
        queries = {"content": content, "position": position, "references": best.sigmoid(), "anchors": best}
        return {"queries": queries, "indices": indices, "logits": [logits], "boxes": [boxes.sigmoid()]}


class BoxEncoding(nn.Module):
    """Position and content of a query from its box."""

    def __init__(self, core: Any) -> None:
        super().__init__()
        self.linear, self.norm = core.pos_trans, core.pos_trans_norm
        self._core = (core,)

    def forward(self, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Position and content (B, N, D) for cxcywh boxes before the sigmoid."""
        coded = self.norm(self.linear(self._core[0].get_proposal_pos_embed(anchors)))
        position, content = torch.split(coded, coded.shape[-1] // 2, dim=2)
        return position, content


class Decoder(DecoderStage):
    """All decoder layers.

    Args:
        core: The library's model without heads.
        attention: Hand out attention weights too (needs eager attention).
    """

    def __init__(self, core: Any, attention: bool) -> None:
        super().__init__(core.decoder, attention)
        self.encode = BoxEncoding(core) if core.config.two_stage else None
        self.points = None if core.config.two_stage else core.reference_points

    def forward(self, queries: dict[str, Tensor], tokens: Tensor, layout: Layout) -> dict[str, Any]:
        """Per layer states (B, N, D) and input references (B, N, 2 or 4)."""
        content, position, references = self.complete(queries, tokens)
        out = self.called(
            queries,
            inputs_embeds=content,
            object_queries_position_embeddings=position,
            reference_points=references,
            encoder_hidden_states=tokens,
            encoder_attention_mask=layout.levels.inside,
            **layout.levels.keywords(),
        )
        after = out.intermediate_reference_points.unbind(1)
        return {
            "states": list(out.intermediate_hidden_states.unbind(1)),
            "references": [references, *after[:-1]],
            **self.weights(out, sampled=True),
        }

    def complete(self, queries: dict[str, Tensor], tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Content, position and references; what is missing is derived, UsageError where that is impossible."""
        content, position = queries.get("content"), queries.get("position")
        references, anchors = queries.get("references"), anchors_of(queries)
        if references is None and anchors is not None:
            references = anchors.sigmoid()
        if references is None and position is not None and self.points is not None:
            references = self.points(position).sigmoid()
        if (content is None or position is None) and anchors is not None and self.encode is not None:
            position, content = self.encode(anchors)
        if content is None or position is None or references is None or content.shape[-1] != tokens.shape[-1]:
            either = "references (B, N, 4), or " if self.encode is not None else ""
            raise unreadable(f"{either}content and position (B, N, {tokens.shape[-1]})", queries)
        return content, position, references


class Heads(nn.Module):
    """Class and box heads, one per layer (one shared head where boxes are not refined)."""

    def __init__(self, classes: nn.ModuleList, boxes: nn.ModuleList) -> None:
        super().__init__()
        self.classes, self.boxes = classes, boxes

    def forward(self, states: list[Tensor], references: list[Tensor]) -> dict[str, Any]:
        """Per layer logits (B, N, K) and boxes (B, N, 4), cxcywh."""
        logits, boxes = [], []
        for i, (state, reference) in enumerate(zip(states, references)):
            start = unsigmoid(reference)
            logits.append(self.classes[i](state))
            change = self.boxes[i](state)
            if start.shape[-1] == 2:  # points: the library adds in place, in the precision of the head
                moved = torch.cat([(change[..., :2] + start).to(change.dtype), change[..., 2:]], -1)
            else:
                moved = change + start
            boxes.append(moved.sigmoid())
        # through one stack, as in the library, so that a layer without a loss has zero gradient and not none
        return {"logits": list(torch.stack(logits).unbind()), "boxes": list(torch.stack(boxes).unbind())}
