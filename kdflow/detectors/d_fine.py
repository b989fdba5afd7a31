"""D-FINE of the transformers library: RT-DETR's stages, with edge distributions in the decoder."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from kdflow.detectors import d_fine_stages as parts
from kdflow.detectors.hf_build import transformers_family
from kdflow.detectors.hf_loss import SetLoss
from kdflow.detectors.hf_options import HybridOptions
from kdflow.detectors.hf_stages import PREDICTIONS, TARGETS
from kdflow.detectors.rt_detr import (
    TERMS,
    built,
    denoising_losses,
    encoder_losses,
    feature_stages,
    focal_of,
    hybrid_detector,
    query_stages,
)
from kdflow.detectors.rt_loss import PairLoss
from kdflow.kinds import ANY, LAYERS, PAIRS
from kdflow.options import option
from kdflow.ports import DETECTORS, Detector, Port, PortEntry, Stage


class DFineOptions(HybridOptions):
    """Options of D-FINE."""

    name = "d-fine"
    decoder_layers: int = option(3, "Decoder layers, at least 2.", "decoder_layers", ge=2)
    fusion_depth: float = option(1.0, "Depth factor of the fusion blocks.", "depth_mult", gt=0)
    bins: int = option(32, "Bins of the edge distributions; an even number.", "max_num_bins", ge=4, multiple_of=2)
    quality_width: int = option(64, "Hidden width of the quality estimator.", "lqe_hidden_dim", gt=0)


def layer_losses(loss: SetLoss, config: Any) -> dict[str, Stage]:
    """Auxiliary losses of the decoder, with the matching that its first prediction needs."""
    layers = parts.LayerLoss(loss, config.decoder_layers)
    pairs = Port("match.first", PAIRS, doc="pairs of the prediction before any refinement")
    reads = {
        "first": "decoder.first",
        **PREDICTIONS,
        "corners": "decoder.distribution",
        "starts": "decoder.starts",
        "pairs": "match.indices",
        "first_pairs": "match.first",
        **TARGETS,
    }
    return {
        "match.first": Stage(parts.FirstMatch(loss), {"first": "decoder.first", **TARGETS}, {"indices": pairs}),
        "criterion.layers": Stage(layers, reads, layers.ports()),
    }


def decoder_extras(config: Any) -> dict[str, Port]:
    """What the decoder gives beside RT-DETR's."""
    edges = "(B, N, 4 * (bins + 1)) edge distribution logits of each layer"
    own = ", for the detector's own losses"
    return {
        "corners": Port(
            "decoder.distribution",
            LAYERS,
            "transformer/logit",
            length=config.decoder_layers,
            form="distribution",
            doc=edges,
        ),
        "first": Port("decoder.first", ANY, doc=f"logits and boxes before any refinement{own}"),
        "starts": Port("decoder.starts", ANY, doc="boxes that the distributions refine"),
    }


def untrained(core: Any) -> list[tuple[nn.Module, list[PortEntry]]]:
    """Modules that the library's losses never reach: its auxiliary losses skip the last layer but one (see above).

    A method that compares the scores of that layer trains them.
    """
    decoder, skipped = core.decoder, core.config.decoder_layers - 2
    if core.config.num_denoising > 0:
        return []
    modules = [decoder.lqe_layers[skipped], *([decoder.class_embed[skipped]] if skipped else [])]
    return [(module, [("decoder.logits", skipped)]) for module in modules]


def make(classes: tuple[str, ...], options: DFineOptions) -> Detector:
    """D-FINE."""
    from transformers import DFineForObjectDetection

    model, names = built(DFineForObjectDetection, options, classes)
    core, config = model.model, model.config
    decoder = parts.Decoder(core.decoder, options.attention == "eager")
    loss = SetLoss(partial(PairLoss, config, "vfl"), TERMS, clamp=True, focal=focal_of(config))
    noise = parts.DenoisingLoss(loss, config.decoder_layers, parts.EDGE_TERMS)
    stages = {**feature_stages(core, options), **query_stages(core, options, decoder, **decoder_extras(config))}
    losses = {**layer_losses(loss, config), **encoder_losses(loss, config), **denoising_losses(noise, config)}
    return hybrid_detector(options, names, model, stages, loss, losses, optional=untrained(core))


DOC = "D-FINE: RT-DETR with edge distributions"
DETECTORS.add(
    DFineOptions.name, transformers_family(make, DFineOptions, DOC, ragged=False, denoising=6, bins=8, quality_width=16)
)
