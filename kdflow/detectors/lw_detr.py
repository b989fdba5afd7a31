"""LW-DETR and RF-DETR of the transformers library (``LwDetrForObjectDetection``, ``RfDetrForObjectDetection``).

Both read a plain vision transformer whose layers look into windows, project its maps, and train several groups of queries of
which the first remains (see :mod:`kdflow.detectors.lw_stages`). In evaluation the losses here are those of the one group that
there is; the library's own are wrong there, for its criterion always believes to be training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from kdflow.detectors import lw_groups as lg
from kdflow.detectors import lw_stages as lw
from kdflow.detectors.hf_build import build_model, transformers_detector, transformers_family
from kdflow.detectors.hf_loss import SetLoss, masked_loss
from kdflow.detectors.hf_parts import Postprocess, draws
from kdflow.detectors.hf_stages import (
    PREDICTIONS,
    TOKEN_PORT,
    body_stages,
    decoder_results,
    loss_stages,
    prediction_ports,
    proposal_ports,
    proposal_stages,
    state_ports,
)
from kdflow.detectors.lw_options import GroupOptions, LwDetrOptions, RfDetrOptions, body_config
from kdflow.kinds import ANY, LAYERS
from kdflow.ports import CLASS_SCORES, DETECTORS, Call, Detector, Port, PortEntry, Stage


def make_criterion(config: Any) -> Any:
    """The library's criterion with its matcher, of one group; who has more sets ``group_detr``."""
    from transformers.loss import loss_lw_detr as library

    costs = {name: getattr(config, name) for name in ("class_cost", "bbox_cost", "giou_cost")}
    matcher = library.LwDetrHungarianMatcher(**costs)
    return library.LwDetrImageLoss(matcher, config.num_labels, config.focal_alpha, ["labels", "boxes"], 1)


def every_port(name: str, doc: str, **details: Any) -> Port:
    """A port of all groups: stacks of (B, groups * N, ...)."""
    return Port(f"per_group.{name}", LAYERS, doc=f"{doc} of all query groups, the first first", **details)


def groups_port(name: str) -> Port:
    """A value of all groups as stages hand it on."""
    return Port(f"groups.{name}", ANY, doc="all query groups, for the detector's own losses")


def feature_stages(model: Any, options: GroupOptions, square: bool) -> dict[str, Stage]:
    """From images to decoder tokens; ``neck`` and ``encoder.memory`` are the same maps."""
    core, body = model.model, model.config.backbone_config
    number, patch = len(body.out_indices), body.patch_size
    scales = getattr(model.config, "projector_scale_factors", (1.0,))
    strides = tuple(round(patch / scale) for scale in scales)
    maps = tuple(Port(name, channels=model.config.d_model, strides=strides) for name in ("neck", "encoder.memory"))
    stages = body_stages(core, options, (body.hidden_size,) * number, (patch,) * number)
    if square:
        start = stages["normalize"]
        stages["normalize"] = Stage(lw.SquarePrepare(options.normalize), start.reads, start.gives)
    layout = Port("encoder.layout", ANY, doc="padding and sizes of the maps")
    return {
        **stages,
        "projection": Stage(lw.Projector(core.backbone.projector), {"maps": "backbone"}, {"maps": maps}, dense=True),
        "tokens": Stage(
            lw.Tokens(core), {"maps": "neck", "mask": "normalize.mask"}, {"tokens": TOKEN_PORT, "layout": layout}
        ),
    }


def query_stages(model: Any, options: GroupOptions) -> dict[str, Stage]:
    """Selection, decoder and heads."""
    core, config, node = model.model, model.config, "transformer/logit"
    length, eager = config.decoder_layers, options.attention == "eager"
    scores = {"node": node, "form": "sigmoid", "classes": CLASS_SCORES}
    boxes = {"node": node, "form": "cxcywh"}
    seen = {"tokens": "decoder.tokens", "layout": "encoder.layout"}
    return {
        "selection": Stage(
            lw.Selection(core),
            seen,
            {
                "queries": Port("decoder.queries"),
                "query_groups": groups_port("queries"),
                "every_queries": Port("per_group.queries", ANY, doc="query sets of all groups, the first first"),
                **proposal_ports("the chosen tokens"),
                "every_logits": every_port("encoder_logits", "scores of chosen tokens", length=1, **scores),
                "every_boxes": every_port("encoder_boxes", "boxes of chosen tokens", length=1, **boxes),
                "groups": groups_port("proposals"),
            },
        ),
        "decoder": Stage(
            lw.Decoder(core.decoder, eager),
            {"queries": "decoder.queries", "groups": "groups.queries", **seen},
            {
                **state_ports(config, "cxcywh", eager),
                "every_states": every_port(
                    "states", "states", node="transformer/query", channels=config.d_model, length=length
                ),
                "groups": groups_port("states"),
            },
            stochastic=draws(config),
        ),
        "heads": Stage(
            lw.Heads(model.class_embed, model.bbox_embed),
            {"states": "decoder.states", "references": "decoder.references", "groups": "groups.states"},
            {
                **prediction_ports(config),
                "every_logits": every_port("logits", "logits", length=length, **scores),
                "every_boxes": every_port("boxes", "boxes", length=length, **boxes),
                "groups": groups_port("predictions"),
            },
        ),
    }


def set_losses(loss: SetLoss, layers: int) -> dict[str, Stage]:
    """Targets, matching and criterion of the decoder layers over all groups."""
    usual = loss_stages(loss, layers)
    match, criterion = usual["match"], usual["criterion"]
    found = {
        "every": Port("per_group.indices", ANY, doc="pairs of all query groups, whose queries count on"),
        "further": Port("groups.indices", ANY, doc="pairs of the query groups behind the first"),
    }
    groups, further = {"groups": "groups.predictions"}, {"further": "groups.indices"}
    return {
        "targets": usual["targets"],
        "match": Stage(lg.GroupMatch(loss), {**match.reads, **groups}, {**match.gives, **found}),
        "criterion": Stage(lg.GroupCriterion(loss, layers), {**criterion.reads, **groups, **further}, criterion.gives),
    }


def proposal_losses(loss: SetLoss) -> dict[str, Stage]:
    """Matching and loss of the chosen encoder tokens over all groups."""
    usual = proposal_stages(loss, "_enc", "chosen encoder tokens")
    match, criterion = usual["match.proposals"], usual["criterion.proposals"]
    found = Port("groups.proposal_indices", ANY, doc="the same of the query groups behind the first")
    groups, further = {"groups": "groups.proposals"}, {"further": found.name}
    loss = replace(loss, auxiliary="")
    return {
        "match.proposals": Stage(lg.GroupMatch(loss), {**match.reads, **groups}, {**match.gives, "further": found}),
        "criterion.proposals": Stage(
            lg.GroupCriterion(loss, suffix="_enc"), {**criterion.reads, **groups, **further}, criterion.gives
        ),
    }


def calls(stages: Mapping[str, Stage]) -> dict[str, Call]:
    """What a method may run again."""
    results, queries = decoder_results(stages), {"queries": "decoder.queries"}
    heads = {name: f"decoder.{name}" for name in ("states", "references")}
    return {
        "transformer": Call(
            {"features": "neck", **queries}, results, doc="selection and decoder on other maps or queries"
        ),
        "decoder": Call({**queries, "memory": "neck"}, results, doc="decoder and heads on other queries or memory"),
        "heads": Call(heads, {n: f"decoder.{n}" for n in PREDICTIONS}, doc="heads on other decoder states"),
    }


def untrained(core: Any) -> list[tuple[nn.Module, list[PortEntry]]]:
    """Layers behind the last map that is taken, and the mask token of a pretraining, which nothing ever reads."""
    body = core.backbone.backbone
    last, token = body.config.out_indices[-1], getattr(body.embeddings, "mask_token", None)
    unread = [*body.encoder.layer[last:], *([nn.ParameterList([token])] if token is not None else [])]
    return [(module, []) for module in unread]


def make(classes: tuple[str, ...], options: GroupOptions) -> Detector:
    """RF-DETR or LW-DETR."""
    import transformers

    square = isinstance(options, RfDetrOptions)
    model_class = transformers.RfDetrForObjectDetection if square else transformers.LwDetrForObjectDetection
    model, names = build_model(model_class, options, classes, body_config(options))
    config, body = model.config, model.config.backbone_config
    config.auxiliary_loss = options.auxiliary_loss
    side = body.num_windows if square else body.num_windows_side
    loss = masked_loss(config, options.auxiliary_loss, make_criterion, config.class_loss_coefficient, averaged=True)
    return transformers_detector(
        options,
        names,
        model,
        {**feature_stages(model, options, square and side > 1), **query_stages(model, options)},
        loss,
        Postprocess("RfDetrImageProcessor") if square else Postprocess("DeformableDetrImageProcessor", top_k=100),
        calls,
        matching=set_losses(loss, config.decoder_layers),
        losses=proposal_losses(loss),
        size_divisor=body.patch_size * side,
        optional=untrained(model.model),
    )


TINY: dict[str, Any] = {
    "windows": 1,
    "grid": 6,
    "body_width": 32,
    "body_heads": 4,
    "body_layers": 3,
    "outputs": (2, 3),
    "cross_heads": 4,
    "groups": 3,
}
DOC = "{} with query groups (a plain vision transformer below)"
DETECTORS.add(RfDetrOptions.name, transformers_family(make, RfDetrOptions, DOC.format("RF-DETR"), **TINY))
LW_TINY: dict[str, Any] = {**TINY, "windows": 2, "windowed": (0,)}
DETECTORS.add(LwDetrOptions.name, transformers_family(make, LwDetrOptions, DOC.format("LW-DETR"), **LW_TINY))
