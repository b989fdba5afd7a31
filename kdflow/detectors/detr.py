"""DETR of the transformers library, with what it shares with Conditional DETR and DAB-DETR.

Query sets: ``position`` (B, N, D); ``content`` is 0 where not given. Conditional DETR derives its reference points from the
position, in the receiving model.

The library's ``auxiliary_loss`` flag changes the *forward* pass of DETR and Conditional DETR: the decoder's norm is then applied
after every layer, its result goes on to the next layer, and the last state is normed twice. Here the two things are apart:
``layer_norms: every`` is that pass, ``last`` the published one, and ``auxiliary_loss`` only says where losses are taken.
"""

from __future__ import annotations

from typing import Any, Literal

from kdflow.detectors import detr_stages as parts
from kdflow.detectors.hf_build import backbone_config, build_model, transformers_detector, transformers_family
from kdflow.detectors.hf_loss import masked_loss
from kdflow.detectors.hf_options import MaskedOptions
from kdflow.detectors.hf_parts import Postprocess, Projection, draws
from kdflow.detectors.hf_stages import masked_calls, masked_stages, prediction_ports, state_ports
from kdflow.kinds import TENSOR
from kdflow.options import again, option
from kdflow.ports import DETECTORS, Detector, Port, Stage

MEMORY = {"tokens": "decoder.tokens", "layout": "encoder.layout"}
STACK = Port("decoder.stack", TENSOR, doc="what the heads read of the earlier layers, (L, B, N, D)")


class DetrOptions(MaskedOptions):
    """Options of DETR (softmax over C+1 classes)."""

    name = "detr"
    queries: int = again(MaskedOptions, "queries", 100)
    layer_norms: Literal["last", "every"] | None = option(
        None,
        "``every`` is the library's pass under its ``auxiliary_loss`` flag, ``last`` the published one; not given, stored "
        "models keep theirs and new ones are as published.",
    )


def make_criterion(config: Any) -> Any:
    """DETR's criterion (softmax, C+1 classes) with its own matcher."""
    from transformers.loss import loss_for_object_detection as library

    costs = {name: getattr(config, name) for name in ("class_cost", "bbox_cost", "giou_cost")}
    return library.ImageLoss(
        library.HungarianMatcher(**costs), config.num_labels, config.eos_coefficient, ["labels", "boxes", "cardinality"]
    )


def built(model_class: Any, options: DetrOptions, classes: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    """A DETR or Conditional DETR of the library that norms its layers as the options say, and its class names."""
    model, names = build_model(model_class, options, classes, backbone_config(options, (4,)))
    if options.layer_norms is not None:
        model.config.auxiliary_loss = options.layer_norms == "every"
    model.model.unfreeze_backbone()  # the library freezes its own ResNets by accident
    return model, names


def stages_of(model: Any, options: DetrOptions, references: str, form: str) -> dict[str, Stage]:
    """From images to predictions.

    Args:
        model: The library's model.
        options: The family's.
        references: ``points`` where the decoder has reference points, else empty.
        form: Of the class scores.
    """
    core, config, eager = model.model, model.config, options.attention == "eager"
    read = {"states": "decoder.states", "stack": "decoder.stack"}
    read |= {"references": "decoder.references"} if references else {}
    projection, layouts = Projection([core.input_projection]), parts.Layouts(core.position_embedding)
    encoder = parts.Encoder(core.encoder, "spatial_position_embeddings")
    return {
        **masked_stages(core, options, projection, layouts, encoder, parts.tokens_of),
        "selection": Stage(
            parts.Queries(core.query_position_embeddings),
            {"tokens": "decoder.tokens"},
            {"queries": Port("decoder.queries")},
        ),
        "decoder": Stage(
            parts.Decoder(core.decoder, eager),
            {"queries": "decoder.queries", **MEMORY},
            {**state_ports(config, references, eager), "stack": STACK},
            stochastic=draws(config),
        ),
        "heads": Stage(
            parts.Heads(model.class_labels_classifier, model.bbox_predictor), read, prediction_ports(config, form)
        ),
    }


def make(classes: tuple[str, ...], options: DetrOptions) -> Detector:
    """DETR. Its backbone's BatchNorms are constants: give it ``pretrained_backbone``."""
    from transformers import DetrForObjectDetection

    model, names = built(DetrForObjectDetection, options, classes)
    loss = masked_loss(model.config, options.auxiliary_loss, make_criterion, focal=None)
    stages = stages_of(model, options, "", "softmax")
    return transformers_detector(options, names, model, stages, loss, Postprocess("DetrImageProcessor"), masked_calls)


DETECTORS.add(
    DetrOptions.name, transformers_family(make, DetrOptions, "DETR (softmax)", encoder_layers=2, layer_norms="every")
)
