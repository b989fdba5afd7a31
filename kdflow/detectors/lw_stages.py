"""Stages of LW-DETR and RF-DETR in the transformers library.

Query sets: ``content`` (B, N, D) and ``references`` (B, N, 4) cxcywh; a query's position is computed from its reference.

Ports are those of the first query group; see :mod:`kdflow.detectors.lw_groups`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdflow.detectors.hf_decoding import DecoderStage, Levels, flatten, inside_of, levels_of, read_queries
from kdflow.detectors.hf_parts import Prepare
from kdflow.detectors.lw_groups import Groups
from kdflow.errors import UsageError
from kdflow.ports import ImageSizes


class SquarePrepare(Prepare):
    """Refuses images that are not square, whose windows the library's RF-DETR mixes up."""

    def forward(self, images: Tensor, image_sizes: ImageSizes) -> dict[str, Any]:
        """See :class:`Prepare`; UsageError for a canvas that is not square."""
        height, width = images.shape[-2:]
        if height != width:
            raise UsageError(
                f"rf-detr with windows reads square images alone (its library exchanges height and width between the windows), "
                f"but this canvas is {height} x {width}. Set data.fixed: true with one data.size, or the option windows: 1."
            )
        return super().forward(images, image_sizes)


class Projector(nn.Module):
    """From all maps of the backbone to one map per scale."""

    def __init__(self, projector: nn.Module) -> None:
        super().__init__()
        self.projector = projector

    def forward(self, maps: list[Tensor]) -> dict[str, Any]:
        """``maps`` (B, D, H, W) per scale."""
        found = self.projector(tuple(maps))
        return {"maps": [found] if isinstance(found, Tensor) else list(found)}


class Tokens(nn.Module):
    """The maps as one sequence, with what is known of their padding."""

    def __init__(self, core: Any) -> None:
        super().__init__()
        self._core = (core,)  # in a tuple, so that this stage owns no layers

    def forward(self, maps: list[Tensor], mask: Tensor) -> dict[str, Any]:
        """``tokens`` (B, S, D) and their ``layout``; ``mask`` (B, H, W) is 1 inside the images."""
        return {"tokens": flatten(maps), "layout": levels_of(self._core[0], maps, [inside_of(m, mask) for m in maps])}


class Selection(nn.Module):
    """Every group scores the tokens by heads of its own and starts its learned queries at the best boxes."""

    def __init__(self, core: Any) -> None:
        super().__init__()
        self.project, self.norm = core.enc_output, core.enc_output_norm
        self.score, self.box = core.enc_out_class_embed, core.enc_out_bbox_embed
        self.content, self.offsets = core.query_feat, core.reference_point_embed
        self.queries, self.groups = core.num_queries, core.group_detr
        self._core = (core,)

    def forward(self, tokens: Tensor, layout: Levels) -> dict[str, Any]:
        """The queries, the first group's token indices, and logits and boxes (with gradient) of the chosen tokens."""
        core, groups, own = self._core[0], self.groups if self.score.training else 1, self.queries
        memory, proposals, invalid = core.gen_encoder_output_proposals(tokens, ~layout.inside, layout.grid.sizes)
        found = [self.choose(i, memory, proposals, invalid) for i in range(groups)]
        boxes = torch.cat([f[1] for f in found], 1)
        features = torch.cat([f[0] for f in found], 1).split(own, 1)  # as strided as the library's: sums depend on it
        logits = torch.cat([score(x) for score, x in zip(self.score, features)], 1)
        offsets, content = (e.weight[: groups * own].unsqueeze(0) for e in (self.offsets, self.content))
        references = refined(boxes.detach(), offsets.expand(len(tokens), -1, -1))
        every = {"content": content.expand(len(tokens), -1, -1), "references": references}
        queries = {key: value[:, :own] for key, value in every.items()}
        first = [logits[:, :own]], [boxes[:, :own]]
        return {
            "queries": queries,
            "query_groups": Groups(queries, every, groups),
            "every_queries": every,
            "indices": found[0][2],
            "logits": first[0],
            "boxes": first[1],
            "every_logits": [logits],
            "every_boxes": [boxes],
            "groups": Groups(first[0][0], ([logits], [boxes]), groups),
        }

    def choose(self, group: int, memory: Tensor, proposals: Tensor, invalid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, N, D), boxes (B, N, 4) and indices (B, N) of the tokens that one group takes."""
        features = self.norm[group](self.project[group](memory))
        scores = self.score[group](features).masked_fill(invalid, float("-inf"))
        boxes = refined(proposals, self.box[group](features))
        indices = torch.topk(scores.max(-1)[0], self.queries, dim=1)[1]
        chosen = [torch.gather(x, 1, indices.unsqueeze(-1).expand(-1, -1, x.shape[-1])) for x in (features, boxes)]
        return chosen[0], chosen[1], indices


def refined(boxes: Tensor, change: Tensor) -> Tensor:
    """The library's move of cxcywh boxes: centres by shares of the sides, sides by exponentials."""
    centre = change[..., :2] * boxes[..., 2:] + boxes[..., :2]
    return torch.cat((centre, change[..., 2:].exp() * boxes[..., 2:]), -1)


class Decoder(DecoderStage):
    """All decoder layers."""

    def forward(self, queries: dict[str, Tensor], groups: Groups, tokens: Tensor, layout: Levels) -> dict[str, Any]:
        """Per layer states (B, N, D) and references (B, N, 4), which are the same in all; ``groups`` holds all groups' states."""
        own = groups.first is queries
        every, count = (groups.every, groups.count) if own else (queries, 1)
        read_queries(tokens, queries, queries.get("content"), queries.get("references"))
        if "real" in queries:
            problem = "this decoder cannot hide queries from each other, since its library has no mask there"
            raise UsageError(f"{problem}; give it no queries that only fill up an image's set")
        with grouped(self.decoder.config, count):
            out = self.called(
                {},
                inputs_embeds=every["content"],
                reference_points=every["references"],
                encoder_hidden_states=tokens,
                encoder_attention_mask=layout.inside,
                **layout.keywords(),
            )
        batch, number = queries["content"].shape[:2]
        states = list(out.intermediate_hidden_states.unbind(0))
        first = [x[:, :number] for x in states]
        result = {
            "states": first,
            "references": [queries["references"]] * len(states),
            "every_states": states,
            "groups": Groups(first[-1], (states, out.intermediate_reference_points), count),
        }
        if self.attention:
            weights = self.weights(out, sampled=True)
            result["self_attention"] = [a[:batch] for a in weights["self_attention"]]
            result["cross_attention"] = [a[:, :, :number] for a in weights["cross_attention"]]
        return result


@contextmanager
def grouped(config: Any, count: int) -> Iterator[None]:
    """Self-attention between the queries of each of ``count`` groups; the library reads their number at every call."""
    before, config.group_detr = config.group_detr, count
    try:
        yield
    finally:
        config.group_detr = before


class Heads(nn.Module):
    """The class and the box head, which all layers and groups share."""

    def __init__(self, classes: nn.Module, boxes: nn.Module) -> None:
        super().__init__()
        self.class_embed, self.bbox_embed = classes, boxes

    def forward(self, states: list[Tensor], references: list[Tensor], groups: Groups) -> dict[str, Any]:
        """Per layer logits (B, N, K) and boxes (B, N, 4) of the first group, and of all groups where the states are the own."""
        own, number = groups.first is states[-1], states[-1].shape[1]
        every, start = groups.every if own else (states, references[-1][None])
        last, stack = every[-1], torch.stack(list(every))
        # the library predicts the last layer alone and, for the losses, all layers together: sums depend on it
        logits, boxes = self.class_embed(last), refined(start[-1], self.bbox_embed(last))
        all_logits, all_boxes = self.class_embed(stack), refined(start, self.bbox_embed(stack))
        every_logits, every_boxes = [*all_logits[:-1], logits], [*all_boxes[:-1], boxes]
        first = [x[:, :number] for x in every_logits], [b[:, :number] for b in every_boxes]
        return {
            "logits": first[0],
            "boxes": first[1],
            "every_logits": every_logits,
            "every_boxes": every_boxes,
            "groups": Groups(first[0][-1], (every_logits, every_boxes), groups.count if own else 1),
        }
