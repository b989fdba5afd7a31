"""Conditional DETR of the transformers library; query sets and layer norms as in :mod:`kdflow.detectors.detr`."""

from __future__ import annotations

from typing import Literal

from kdflow.detectors.deformable_detr import PUBLISHED_CLASS_WEIGHT, make_criterion
from kdflow.detectors.detr import DetrOptions, built, stages_of
from kdflow.detectors.hf_build import transformers_detector, transformers_family
from kdflow.detectors.hf_loss import masked_loss
from kdflow.detectors.hf_options import MaskedOptions
from kdflow.detectors.hf_parts import Postprocess
from kdflow.detectors.hf_stages import masked_calls
from kdflow.options import again, option
from kdflow.ports import DETECTORS, Detector


class ConditionalDetrOptions(DetrOptions):
    """Options of Conditional DETR."""

    name = "conditional-detr"
    queries: int = again(MaskedOptions, "queries", 300)
    criterion: Literal["library", "published"] = option(
        "library", "``published`` weighs the class term 2, the library 1."
    )


def make(classes: tuple[str, ...], options: ConditionalDetrOptions) -> Detector:
    """Conditional DETR. Its backbone's BatchNorms are constants: give it ``pretrained_backbone``."""
    from transformers import ConditionalDetrForObjectDetection

    model, names = built(ConditionalDetrForObjectDetection, options, classes)
    weight = PUBLISHED_CLASS_WEIGHT if options.criterion == "published" else 1
    loss = masked_loss(model.config, options.auxiliary_loss, make_criterion, weight)
    stages = stages_of(model, options, "points", "sigmoid")
    postprocess = Postprocess("ConditionalDetrImageProcessor", top_k=100)
    return transformers_detector(options, names, model, stages, loss, postprocess, masked_calls)


DETECTORS.add(
    ConditionalDetrOptions.name,
    transformers_family(make, ConditionalDetrOptions, "Conditional DETR", encoder_layers=2, layer_norms="every"),
)
