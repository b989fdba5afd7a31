"""Stages of RT-DETR and its relatives (RT-DETRv2, D-FINE, DEIMv2) in the transformers library, with contrastive denoising.

Query sets: ``content`` (B, N, D) and ``anchors`` or ``references`` (B, N, 4) cxcywh; a query's position is computed from its
reference inside the decoder, so references may come from a model of any width. In training the library puts the denoising
queries first; the ports carry the others only. The library has no padding mask here: all images of a batch fill the canvas.

The library caches anchors and position codes by map size. A pass on fake tensors would leave fake tensors in that cache, so the
stages concerned declare their shapes instead (``infer``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdflow.detectors.hf_decoding import DecoderStage, Grid, anchors_of, flatten, grid_of, read_queries
from kdflow.detectors.hf_loss import SetLoss
from kdflow.detectors.hf_parts import to_labels
from kdflow.detectors.loss_terms import LossTerms
from kdflow.detectors.rt_loss import object_count
from kdflow.ports import ImageSizes


class Encoder(nn.Module):
    """Attention on the coarsest map, then fusion over the levels; of the library's encoder, whatever it calls its maps.

    Args:
        encoder: The library's.

    Attributes:
        attends: Whether it has attention layers, whose last result is then given as ``attended``.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.attends = bool(self._layers())

    def forward(self, maps: list[Tensor]) -> dict[str, Any]:
        """``maps`` of the same sizes; the inputs are kept (the library writes into the list it is given)."""
        attended: list[Tensor] = []
        hooks = [layer.register_forward_hook(lambda *call: attended.append(call[-1])) for layer in self._layers()]
        try:
            found = self.encoder(list(maps))
        finally:
            for hook in hooks:
                hook.remove()
        result: dict[str, Any] = {"maps": list(getattr(found, "feature_maps", found.get("last_hidden_state")))}
        return {**result, "attended": attended[-1]} if self.attends else result

    def _layers(self) -> list[nn.Module]:
        """The library's attention layers; it leaves them out where its configuration has none."""
        layers: Any = getattr(self.encoder, "aifi", ())
        return list(layers) if getattr(getattr(self.encoder, "config", None), "encoder_layers", 0) else []

    def infer(self, maps: list[Tensor]) -> dict[str, Any]:
        """The shapes do not change."""
        found: dict[str, Any] = {"maps": [m.new_empty(m.shape) for m in maps]}
        if self.attends:
            last: Any = self.encoder.config
            found["attended"] = torch.empty_like(maps[last.encode_proj_layers[-1]])
        return found


class Tokens(nn.Module):
    """The decoder's own projection of the encoder's maps, flattened to one sequence."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, maps: list[Tensor]) -> dict[str, Any]:
        """``tokens`` (B, S, D) and their ``grid``; levels beyond the given maps are made from the coarsest one."""
        sources = [layer(maps[min(i, len(maps) - 1)]) for i, layer in enumerate(self.layers)]
        return {"tokens": flatten(sources), "grid": grid_of(sources)}


@dataclass
class Noise:
    """Denoising queries of one batch.

    Attributes:
        content: (B, M, D) embedded, partly wrong labels.
        anchors: (B, M, 4) shifted boxes, before the sigmoid.
        mask: Additive self-attention mask over M + N queries.
        meta: The library's bookkeeping: which query stands for which object.
    """

    content: Tensor
    anchors: Tensor
    mask: Tensor
    meta: dict[str, Any]

    @property
    def count(self) -> int:
        """M."""
        return int(self.meta["dn_num_split"][0])

    def mask_for(self, queries: int) -> Tensor:
        """The mask beside another number of queries: these never see the denoising part, which sees them."""
        if self.mask.shape[0] == self.count + queries:
            return self.mask
        mask = self.mask.new_zeros((self.count + queries,) * 2)
        mask[: self.count, : self.count] = self.mask[: self.count, : self.count]
        mask[self.count :, : self.count] = -torch.inf
        return mask


class Denoising(nn.Module):
    """Makes the library's contrastive denoising queries from the ground truth, in training mode only. Draws random numbers."""

    def __init__(self, core: Any) -> None:
        super().__init__()
        self.config = core.config
        self.embed = core.denoising_class_embed if core.config.num_denoising > 0 else None
        self.construct = vars(sys.modules[type(core).__module__])["get_contrastive_denoising_training_group"]

    def forward(self, boxes: list[Tensor], labels: list[Tensor], image_sizes: ImageSizes) -> dict[str, Any]:
        """``noise``: a :class:`Noise`, or None in evaluation mode and for a batch without objects."""
        if self.embed is None or not self.embed.training:
            return {"noise": None}
        content, anchors, mask, meta = self.construct(
            targets=to_labels(boxes, labels, image_sizes),
            num_classes=self.config.num_labels,
            num_queries=self.config.num_queries,
            class_embed=self.embed,
            num_denoising_queries=self.config.num_denoising,
            label_noise_ratio=self.config.label_noise_ratio,
            box_noise_scale=self.config.box_noise_scale,
        )
        return {"noise": None if content is None else Noise(content, anchors, mask, meta)}

    def infer(self, **values: Any) -> dict[str, Any]:
        """Shapes are inferred as in evaluation mode."""
        del values
        return {"noise": None}


class Selection(nn.Module):
    """Scores every encoder token and takes the best as queries (content and first boxes)."""

    def __init__(self, core: Any) -> None:
        super().__init__()
        self.project, self.score, self.box = core.enc_output, core.enc_score_head, core.enc_bbox_head
        self.learned = core.weight_embedding if core.config.learn_initial_query else None
        self.config = core.config
        self._core = (core,)  # in a tuple, so that this stage owns the selection's layers alone

    def anchors(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """The library's anchors before the sigmoid (1, S, 4), and which of them lie inside the image."""
        core = self._core[0]
        if self.score.training or self.config.anchor_image_size is None:
            return core.generate_anchors(tuple(grid.sizes), device=tokens.device, dtype=tokens.dtype)
        return core.anchors.to(tokens), core.valid_mask.to(tokens)

    def forward(self, tokens: Tensor, grid: Grid) -> dict[str, Any]:
        """The queries, the chosen token indices, and logits and boxes (with gradient) of all and of the chosen tokens."""
        anchors, valid = self.anchors(tokens, grid)
        memory = self.project(valid.to(tokens.dtype) * tokens)
        logits = self.score(memory)
        boxes = self.box(memory) + anchors
        indices = torch.topk(logits.max(-1).values, self.config.num_queries, dim=1)[1]
        first = chosen(boxes, indices)
        content = chosen(memory, indices).detach()
        if self.learned is not None:
            content = self.learned.weight.tile([len(tokens), 1, 1])
        queries = {"content": content, "references": first.detach().sigmoid(), "anchors": first.detach()}
        return {
            "queries": queries,
            "indices": indices,
            "all_logits": logits,
            "logits": [chosen(logits, indices)],
            "boxes": [first.sigmoid()],
        }

    def infer(self, tokens: Tensor, grid: Grid) -> dict[str, Any]:
        """Shapes from the configuration."""
        batch, count, classes = len(tokens), self.config.num_queries, self.config.num_labels
        box = tokens.new_empty(batch, count, 4)
        return {
            "queries": {"content": tokens.new_empty(batch, count, tokens.shape[-1]), "references": box, "anchors": box},
            "indices": tokens.new_empty(batch, count, dtype=torch.long),
            "all_logits": tokens.new_empty(batch, tokens.shape[1], classes),
            "logits": [tokens.new_empty(batch, count, classes)],
            "boxes": [box],
        }


def chosen(values: Tensor, indices: Tensor) -> Tensor:
    """Rows ``indices`` (B, N) of ``values`` (B, S, C)."""
    return values.gather(1, indices.unsqueeze(-1).repeat(1, 1, values.shape[-1]))


class Decoder(DecoderStage):
    """All decoder layers with their heads."""

    def forward(
        self, queries: dict[str, Tensor], noise: Noise | None, tokens: Tensor, grid: Grid, denoising: bool = True
    ) -> dict[str, Any]:
        """Per layer states (B, N, D), logits (B, N, K), boxes and input references (B, N, 4); ``denoised`` for the others.

        Args:
            queries: Any number of queries.
            noise: Denoising queries, which are put before them.
            tokens: Projected memory.
            grid: Its level sizes.
            denoising: False leaves the denoising queries out (cheaper, equal up to rounding).
        """
        content, anchors = read_queries(tokens, queries, queries.get("content"), anchors_of(queries))
        noise = noise if denoising else None
        count, mask = 0, None
        if noise is not None:
            count, mask = noise.count, noise.mask_for(content.shape[1])
            content, anchors = torch.concat([noise.content, content], 1), torch.concat([noise.anchors, anchors], 1)
        anchors = anchors.detach()
        out = self.called(
            queries,
            inputs_embeds=content,
            encoder_hidden_states=tokens,
            encoder_attention_mask=mask,
            reference_points=anchors,
            **{**grid.keywords(), "spatial_shapes": self.shapes(grid)},
        )
        layered = self.layered(out, anchors)
        denoised = {k: [x[:, :count] for x in v] for k, v in layered.items()} if count else None
        own = {k: [x[:, count:] for x in v] for k, v in layered.items()}
        return {**own, "denoised": denoised, **self.weights(out, True, count)}

    def shapes(self, grid: Grid) -> Tensor:
        """The grid's sizes where the library wants them."""
        return grid.shapes

    def layered(self, out: Any, anchors: Tensor) -> dict[str, Sequence[Tensor]]:
        """The library's output as lists over layers, of all queries."""
        states = out.intermediate_hidden_states.unbind(1)
        logits, boxes = out.intermediate_logits.unbind(1), out.intermediate_reference_points.unbind(1)
        references = [anchors.sigmoid(), *(b.detach() for b in boxes[:-1])]
        return {"states": states, "logits": logits, "boxes": boxes, "references": references}

    def infer(
        self, queries: dict[str, Tensor], noise: Noise | None, tokens: Tensor, grid: Grid, **options: Any
    ) -> dict[str, Any]:
        """Shapes from the queries and the configuration."""
        del noise, options
        content, anchors = read_queries(tokens, queries, queries.get("content"), anchors_of(queries))
        config, (batch, count, width) = self.decoder.config, content.shape
        layers = range(config.decoder_layers)
        box, heads = [anchors.new_empty(anchors.shape) for _ in layers], config.decoder_attention_heads
        points, levels = config.decoder_n_points, len(grid.sizes)
        sampled = sum(points) if isinstance(points, list) else levels * points
        return {
            "states": [content.new_empty(batch, count, width) for _ in layers],
            "logits": [content.new_empty(batch, count, config.num_labels) for _ in layers],
            "boxes": box,
            "references": list(box),
            "denoised": None,
            "self_attention": [content.new_empty(batch, heads, count, count) for _ in layers],
            "cross_attention": [content.new_empty(batch, heads, count, sampled) for _ in layers],
        }


class DenoisingLoss(LossTerms):
    """The library's loss on the denoising queries of all layers; 0 without such queries.

    Args:
        loss: Of the decoder layers.
        layers: Number of decoder layers.
        further: Names of terms of a layer beside those of ``loss``.
    """

    def __init__(self, loss: SetLoss, layers: int, further: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.names = tuple(f"{name}_dn_{i}" for i in range(layers) for name in (*loss.names, *further))
        self.loss = loss

    def forward(
        self,
        noise: Noise | None,
        denoised: dict[str, Any] | None,
        boxes: list[Tensor],
        labels: list[Tensor],
        image_sizes: ImageSizes,
    ) -> dict[str, Any]:
        """Scalars by name; the divisor is the number of objects times the number of denoising groups."""
        if noise is None or denoised is None:
            return {name: boxes[0].new_zeros(()) for name in self.names}
        targets = to_labels(boxes, labels, image_sizes)
        criterion = self.loss.make()
        pairs = criterion.get_cdn_matched_indices(noise.meta, targets)
        divisor = object_count(labels) * noise.meta["dn_num_group"]
        terms: dict[str, Any] = {}
        for i, outputs in enumerate(self.layers(denoised)):
            terms |= criterion.layer(outputs, targets, pairs, divisor, f"_dn_{i}")
        return terms

    def layers(self, denoised: dict[str, Any]) -> list[dict[str, Tensor]]:
        """What the library's loss reads of each layer."""
        return [{"logits": x, "pred_boxes": b} for x, b in zip(denoised["logits"], denoised["boxes"])]
