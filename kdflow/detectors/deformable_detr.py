"""Deformable DETR of the transformers library (``DeformableDetrForObjectDetection``): one-stage, with box refinement, two-stage.

Query sets: ``content`` and ``position`` (B, N, D) and ``references`` (B, N, 2 or 4) in 0..1. What is missing is made by the
receiving model: in two-stage mode content and position from the references (so boxes of a model of any width will do), in
one-stage mode the references from the position.

Two things in the library differ from the published recipe: the class term weighs 1 instead of 2, and in two-stage mode the
encoder's proposals get no loss, so that their head is never trained. ``criterion: published`` restores both. In either case the
first score of an encoder token says whether it becomes a query, and the others say nothing: that score belongs to no class, and a
teacher with another class order keeps it in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from kdflow.detectors import deformable_stages as parts
from kdflow.detectors.hf_build import backbone_config, build_model, transformers_detector, transformers_family
from kdflow.detectors.hf_decoding import flatten
from kdflow.detectors.hf_loss import masked_loss
from kdflow.detectors.hf_options import MaskedOptions
from kdflow.detectors.hf_parts import Postprocess, Projection, draws
from kdflow.detectors.hf_stages import (
    head_nodes,
    masked_calls,
    masked_stages,
    prediction_ports,
    proposal_ports,
    proposal_stages,
    state_ports,
    strides_of,
)
from kdflow.options import again, option
from kdflow.ports import DETECTORS, Call, Detector, Port, PortEntry, Stage

PUBLISHED_CLASS_WEIGHT = 2


class DeformableDetrOptions(MaskedOptions):
    """Options of Deformable DETR."""

    name = "deformable-detr"
    two_stage: bool = option(True, "Queries are the best encoder tokens' boxes instead of learned.", "two_stage")
    box_refine: bool = option(
        True, "Every layer refines the boxes of the one before (two-stage needs it).", "with_box_refine"
    )
    d_model: int = option(256, "Width; a multiple of 32 (the library's group norms).", "d_model", gt=0, multiple_of=32)
    levels: int = option(
        4, "Feature levels: the last backbone stages, then stride-2 convolutions.", "num_feature_levels", gt=0
    )
    ffn: int = again(MaskedOptions, "ffn", 1024)
    queries: int = option(300, "Number of queries.", ("num_queries", "two_stage_num_proposals"), gt=0)
    points: int = option(4, "Sampled points per head and level.", ("encoder_n_points", "decoder_n_points"), gt=0)
    criterion: Literal["library", "published"] = option(
        "library", "``published`` weighs the class term 2 and adds the loss on the encoder's proposals."
    )


def make_criterion(config: Any) -> Any:
    """The library's criterion (sigmoid, C classes) with its own matcher."""
    from transformers.loss import loss_deformable_detr as library

    costs = {name: getattr(config, name) for name in ("class_cost", "bbox_cost", "giou_cost")}
    return library.DeformableDetrImageLoss(
        library.DeformableDetrHungarianMatcher(**costs),
        config.num_labels,
        config.focal_alpha,
        ["labels", "boxes", "cardinality"],
    )


def selection_stage(core: Any) -> Stage:
    """Learned queries, or the best encoder tokens."""
    queries, memory = {"queries": Port("decoder.queries")}, {"tokens": "decoder.tokens", "layout": "encoder.layout"}
    if not core.config.two_stage:
        return Stage(parts.Learned(core), {"tokens": "decoder.tokens"}, queries)
    scores = proposal_ports("every encoder token", "scores (the first chooses the queries)", classes=None)
    return Stage(parts.Proposals(core), memory, queries | scores)


def stages_of(model: Any, options: DeformableDetrOptions) -> dict[str, Stage]:
    """From images to predictions."""
    core, config, eager = model.model, model.config, options.attention == "eager"
    strides = strides_of(len(core.backbone.intermediate_channel_sizes), config.num_feature_levels)
    projection, encoder = Projection(core.input_proj), parts.Encoder(core.encoder)
    return {
        **masked_stages(core, options, projection, parts.Layouts(core), encoder, flatten, strides),
        "selection": selection_stage(core),
        "decoder": Stage(
            parts.Decoder(core, eager),
            {"queries": "decoder.queries", "tokens": "decoder.tokens", "layout": "encoder.layout"},
            state_ports(config, "cxcywh" if config.two_stage else "points", eager),
            stochastic=draws(config),
            nodes=head_nodes(core.decoder),
        ),
        "heads": Stage(
            parts.Heads(model.class_embed, model.bbox_embed),
            {"states": "decoder.states", "references": "decoder.references"},
            prediction_ports(config),
        ),
    }


def calls(stages: Mapping[str, Stage]) -> dict[str, Call]:
    """What a method may run again."""
    inputs, outputs = ({n: f"decoder.{n}" for n in names} for names in (("states", "references"), ("logits", "boxes")))
    return {**masked_calls(stages), "heads": Call(inputs, outputs, doc="heads on other decoder states")}


def untrained(model: Any) -> list[tuple[nn.Module, list[PortEntry]]]:
    """What only a loss on the encoder's proposals would reach, and what a method may compare instead."""
    core, logits, boxes = model.model, ("encoder.logits", 0), ("encoder.boxes", 0)
    shared = [(module, [logits, boxes]) for module in (core.enc_output, core.enc_output_norm)]
    return [(model.class_embed[-1], [logits]), (model.bbox_embed[-1], [boxes]), *shared]


def make(classes: tuple[str, ...], options: DeformableDetrOptions) -> Detector:
    """Deformable DETR. Its backbone's BatchNorms are constants: give it ``pretrained_backbone`` or train for long."""
    from transformers import DeformableDetrForObjectDetection

    body = backbone_config(options, (2, 3, 4)[-min(options.levels, 3) :])
    model, names = build_model(DeformableDetrForObjectDetection, options, classes, body)
    model.config.auxiliary_loss = options.auxiliary_loss
    model.model.unfreeze_backbone()  # the library freezes its own ResNets by accident
    published, proposals = options.criterion == "published", bool(model.config.two_stage)
    weight = PUBLISHED_CLASS_WEIGHT if published else 1
    loss = masked_loss(model.config, options.auxiliary_loss, make_criterion, weight)
    return transformers_detector(
        options,
        names,
        model,
        stages_of(model, options),
        loss,
        Postprocess("DeformableDetrImageProcessor", top_k=100),
        calls,
        losses=proposal_stages(replace(loss, one_class=True), "_enc", "encoder tokens")
        if published and proposals
        else {},
        optional=untrained(model) if proposals and not published else (),
    )


DOC = "Deformable DETR, one- or two-stage, with or without box refinement"
DETECTORS.add(DeformableDetrOptions.name, transformers_family(make, DeformableDetrOptions, DOC, encoder_layers=2))
