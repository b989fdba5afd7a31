"""D-FINE of the transformers library: RT-DETR's stages, with edge distributions in the decoder.

In evaluation mode the library computes the heads of the last layer only. The decoder stage here asks for all layers in both modes
(the decoder's own training flag does that; its dropout and norms keep their mode), so a teacher offers every layer.

The library's auxiliary losses (5.23) pair lists of unequal length: entry 0 holds the predictions made before the first
refinement with the distributions of layer 0, entry i the predictions of layer i-1 with the distributions of layer i. The
same is done here, so that its losses are met; the term names say the entry, as in the library.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from kdflow.detectors import rt_stages as rt
from kdflow.detectors.bridge import PortSpec, family
from kdflow.detectors.carried_build import backbone_config, build_hybrid, channels_of, parameters_of
from kdflow.detectors.carried_parts import (
    TARGET_INPUTS,
    Criterion,
    HfDetector,
    ImageSizes,
    Match,
    Pairs,
    Postprocess,
    detection_stage,
    inner,
    loss_ports,
    matching_stages,
    to_labels,
)
from kdflow.detectors.options import typed_options
from kdflow.detectors.rt_detr import (
    GROUND_TRUTH,
    STAGES,
    TERMS,
    calls,
    decoder_ports,
    feature_ports,
    feature_stages,
    proposal_stages,
    query_stages,
)
from kdflow.kinds import LAYERS
from kdflow.ports import DETECTORS, Detector, PortEntry, Stage

ALL_TERMS = (*TERMS, "loss_fgl", "loss_ddf")
LAYER_INPUTS = {
    "first": "decoder.first",
    "logits": "decoder.logits",
    "boxes": "decoder.boxes",
    "corners": "decoder.distribution",
    "starts": "decoder.starts",
}


class Decoder(rt.Decoder):
    """RT-DETR's decoder stage, which also gives ``first`` (the prediction before any refinement), ``corners`` and ``starts``."""

    def __init__(self, decoder: Any, attention: bool) -> None:
        super().__init__(decoder, attention)
        self.outputs = (*self.outputs, "first", "corners", "starts")

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

    def split(self, out: Any, anchors: Tensor, count: int) -> dict[str, Any]:
        """The library's output as lists over layers, its first ``count`` queries apart."""
        logits, boxes = out.intermediate_logits.unbind(1), out.intermediate_reference_points.unbind(1)
        layered: dict[str, Sequence[Tensor]] = {
            "states": out.intermediate_hidden_states.unbind(0),
            "logits": logits[1:],
            "boxes": boxes[1:],
            "references": [anchors.sigmoid(), *(b.detach() for b in boxes[1:-1])],
            "corners": out.intermediate_predicted_corners.unbind(1),
            "starts": out.initial_reference_points.unbind(1),
            "first": (logits[0], boxes[0]),
        }
        denoised = {k: [x[:, :count] for x in v] for k, v in layered.items()} if count else None
        return {**{k: [x[:, count:] for x in v] for k, v in layered.items()}, "denoised": denoised}

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


class LayerLoss(nn.Module):
    """The library's auxiliary losses of the decoder, with the distribution terms."""

    def __init__(self, criterion: Criterion, layers: int) -> None:
        super().__init__()
        self.make = criterion.make
        self.names = tuple(f"{name}_aux_{i}" for i in range(layers - 1) for name in ALL_TERMS)

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
    ) -> dict[str, Any]:
        """Scalars by name."""
        labels = to_labels(target_boxes, target_labels, image_sizes)
        criterion, divisor = self.make().to(logits[0].device), rt.object_count(target_labels)
        terms: dict[str, Any] = {}
        layers = library_layers(first, logits, boxes, corners, starts, len(logits) - 1)
        for i, (outputs, found) in enumerate(zip(layers, [*first_pairs, *pairs])):
            terms |= rt.layer_terms(criterion, outputs, labels, found, divisor, f"_aux_{i}")
        return terms

    def infer(self, logits: list[Tensor], **rest: Any) -> dict[str, Any]:
        """Scalars."""
        del rest
        return {name: logits[0].new_zeros(()) for name in self.names}


class FirstMatch(nn.Module):
    """Assignment for the prediction made before any refinement."""

    def __init__(self, match: Match) -> None:
        super().__init__()
        self.match = match

    def forward(self, first: list[Tensor], **targets: Any) -> dict[str, Any]:
        """``indices`` of the one layer."""
        return self.match([first[0]], [first[1]], **targets)

    def infer(self, first: list[Tensor], **targets: Any) -> dict[str, Any]:
        """See :class:`kdflow.detectors.carried_parts.Match`."""
        return self.match.infer([first[0]], [first[1]], **targets)


class DenoisingLoss(rt.DenoisingLoss):
    """RT-DETR's loss on the denoising queries, with the distribution terms."""

    def layers(self, denoised: dict[str, Any]) -> list[dict[str, Tensor]]:
        """What the library's loss reads of each layer."""
        first, logits, boxes = denoised["first"], denoised["logits"], denoised["boxes"]
        corners, starts = denoised["corners"], denoised["starts"]
        return library_layers(first, logits, boxes, corners, starts, len(corners))


def make_criterion(config: Any) -> Any:
    """The library's criterion; its matcher, terms and weights come from the configuration."""
    from transformers.loss.loss_d_fine import DFineLoss

    return DFineLoss(config)


def loss_stages(criterion: Criterion, config: Any) -> tuple[dict[str, Stage], dict[str, Any]]:
    """Auxiliary losses, encoder proposals and denoising queries."""
    layers = LayerLoss(criterion, config.decoder_layers)
    first = FirstMatch(Match(criterion.make, criterion.clamp))
    proposals, ports = proposal_stages(criterion, config.decoder_layers)
    inputs = {**LAYER_INPUTS, "pairs": "match.indices", "first_pairs": "match.first", **TARGET_INPUTS}
    stages = {
        "match.first": Stage(first, {"first": "decoder.first", **TARGET_INPUTS}, ("indices",)),
        "criterion.layers": Stage(layers, inputs, layers.names),
        **proposals,
    }
    ports = {
        "match.first": inner("match.first", "indices", "pairs of the prediction before any refinement"),
        **loss_ports("criterion.layers", layers.names),
        **ports,
    }
    if config.num_denoising > 0:
        noise = DenoisingLoss(criterion, config.decoder_layers, ALL_TERMS)
        inputs = {"noise": "denoising.noise", "denoised": "decoder.denoised", **GROUND_TRUTH}
        stages["criterion.denoising"] = Stage(noise, inputs, noise.names)
        ports |= loss_ports("criterion.denoising", noise.names)
    return stages, ports


def wrap(model: Any, classes: Sequence[str], normalize: str) -> Detector:
    """The detector around a D-FINE of the library."""
    core, config = model.model, model.config
    config.auxiliary_loss = True
    eager, length = config._attn_implementation == "eager", config.decoder_layers
    criterion = Criterion(partial(make_criterion, config), TERMS, {}, None, length, clamp=True)
    matching, matching_ports = matching_stages(criterion)
    further, further_ports = loss_stages(criterion, config)
    stages = {
        **feature_stages(core, "d-fine", normalize),
        **query_stages(core, Decoder(core.decoder, eager)),
        **matching,
        **further,
        "postprocess": detection_stage(Postprocess("RTDetrImageProcessor", use_focal_loss=config.use_focal_loss)),
    }
    edges = PortSpec(
        LAYERS,
        "decoder",
        "corners",
        node="transformer/logit",
        length=length,
        form="distribution",
        doc="(B, N, 4 * (bins + 1)) edge distribution logits of each layer",
    )
    ports = {
        **feature_ports(core),
        **decoder_ports(config, eager),
        "decoder.distribution": edges,
        "decoder.first": inner("decoder", "first", "logits and boxes before any refinement"),
        "decoder.starts": inner("decoder", "starts", "boxes that the distributions refine"),
        **matching_ports,
        **further_ports,
    }
    losses = {p.removeprefix("losses."): p for p in ports if p.startswith("losses.")}
    return HfDetector(
        "d-fine",
        tuple(classes),
        model,
        ports,
        stages,
        calls(criterion),
        losses,
        32,
        parameters_of(model, untrained(core)),
    )


def untrained(core: Any) -> list[tuple[nn.Module, list[PortEntry]]]:
    """Modules that the library's losses never reach: its auxiliary losses skip the last layer but one (see above).

    A method that compares the scores of that layer trains them.
    """
    decoder, skipped = core.decoder, core.config.decoder_layers - 2
    if core.config.num_denoising > 0 or skipped < 0:
        return []
    modules = [decoder.lqe_layers[skipped], *([decoder.class_embed[skipped]] if skipped else [])]
    return [(module, [("decoder.logits", skipped)]) for module in modules]


@typed_options("d-fine")
def build(
    classes: tuple[str, ...],
    *,
    weights: str | None = None,
    backbone: str = "resnet18",
    pretrained_backbone: str | None = None,
    widths: tuple[int, ...] = (),
    depths: tuple[int, ...] = (),
    norm: Literal["batch", "frozen"] = "batch",
    d_model: int = 256,
    encoder_width: int | None = None,
    encoder_layers: int = 1,
    decoder_layers: int = 3,
    heads: int = 8,
    ffn: int = 1024,
    expansion: float = 1.0,
    fusion_depth: float = 1.0,
    queries: int = 300,
    points: int = 4,
    bins: int = 32,
    quality_width: int = 64,
    dropout: float = 0.0,
    denoising: int = 100,
    label_noise: float = 0.5,
    box_noise: float = 1.0,
    attention: Literal["sdpa", "eager"] = "sdpa",
    normalize: Literal["none", "imagenet"] = "none",
) -> Detector:
    """D-FINE.

    Args:
        classes: Class names in label order.
        weights: State-dict file, folder of ``save_pretrained``, or hub name (the last two bring their own architecture).
        backbone: ``resnet18`` ... ``resnet101`` (the library's ResNet-D), or ``timm:<name>``.
        pretrained_backbone: State-dict file, folder or hub name for the backbone alone.
        widths: Channels of the backbone's four stages instead of the usual ones.
        depths: Blocks of the backbone's four stages instead of the usual ones.
        norm: ``frozen`` makes the backbone's BatchNorms constants, as published (for pretrained backbones).
        d_model: Width of the decoder.
        encoder_width: Width of the hybrid encoder; d_model where not given.
        encoder_layers: Attention layers on the coarsest map.
        decoder_layers: Decoder layers.
        heads: Attention heads.
        ffn: Hidden width of the feed-forward layers.
        expansion: Width factor inside the fusion blocks.
        fusion_depth: Depth factor of the fusion blocks.
        queries: Number of queries; at most the number of encoder tokens.
        points: Sampled points per head and level.
        bins: Bins of the edge distributions.
        quality_width: Hidden width of the quality estimator.
        dropout: Dropout rate.
        denoising: Denoising queries; 0 turns them off.
        label_noise: Share of wrong labels among them (half of it is drawn).
        box_noise: Size of their box shifts.
        attention: ``eager`` offers the attention ports.
        normalize: ``none`` for models trained on values in 0..1, as the published ones are.
    """
    from transformers import DFineForObjectDetection

    body = backbone_config(backbone, widths, depths, STAGES, "rt_detr_resnet")
    channels, encoder = channels_of(body, STAGES), encoder_width or d_model
    settings = {
        "backbone_config": body,
        "encoder_in_channels": channels,
        "freeze_backbone_batch_norms": norm == "frozen",
        "encoder_hidden_dim": encoder,
        "encoder_layers": encoder_layers,
        "encoder_attention_heads": heads,
        "encoder_ffn_dim": ffn,
        "hidden_expansion": expansion,
        "depth_mult": fusion_depth,
        "decoder_in_channels": [encoder] * len(channels),
        "d_model": d_model,
        "decoder_layers": decoder_layers,
        "decoder_attention_heads": heads,
        "decoder_ffn_dim": ffn,
        "decoder_n_points": points,
        "num_queries": queries,
        "max_num_bins": bins,
        "lqe_hidden_dim": quality_width,
        "dropout": dropout,
        "attention_dropout": dropout,
        "num_denoising": denoising,
        "label_noise_ratio": label_noise,
        "box_noise_scale": box_noise,
    }
    model, names = build_hybrid(DFineForObjectDetection, settings, classes, weights, attention, pretrained_backbone)
    return wrap(model, names, normalize)


DETECTORS.add(
    "d-fine",
    family(build, "transformer", "transformers", "Apache-2.0", "D-FINE: RT-DETR with edge distributions"),
)
