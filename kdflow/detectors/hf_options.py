"""Options that the transformer families share; a keyword is that of the library's configuration."""

from __future__ import annotations

from typing import Any, Literal

from kdflow.detectors.cnn_options import PerStage
from kdflow.options import Options, again, option

TINY: dict[str, Any] = {
    "backbone": "resnet18",
    "widths": (8, 16, 24, 32),
    "depths": (1, 1, 1, 1),
    "d_model": 32,
    "heads": 4,
    "ffn": 64,
    "queries": 10,
    "decoder_layers": 3,
    "dropout": 0.0,
}
"""A family's tiny form, apart from what is its own."""


class DecoderOptions(Options):
    """Options of every family, whatever its backbone."""

    weights: str | None = option(
        None, "State-dict file, folder of ``save_pretrained``, or hub name (the last two bring their own architecture)."
    )
    pretrained_backbone: str | None = option(None, "State-dict file, folder or hub name for the backbone alone.")
    d_model: int = option(256, "Width of the transformer.", "d_model", gt=0)
    decoder_layers: int = option(6, "Decoder layers.", "decoder_layers", gt=0)
    heads: int = option(8, "Attention heads.", ("encoder_attention_heads", "decoder_attention_heads"), gt=0)
    ffn: int = option(2048, "Hidden width of the feed-forward layers.", ("encoder_ffn_dim", "decoder_ffn_dim"), gt=0)
    queries: int = option(300, "Number of queries.", "num_queries", gt=0)
    dropout: float = option(0.1, "Dropout rate.", "dropout", ge=0, le=1)
    attention: Literal["sdpa", "eager"] = option("sdpa", "``eager`` offers the attention ports.")
    normalize: Literal["imagenet", "none"] = option(
        "imagenet", "Pixel statistics; ``none`` for models trained on values in 0..1."
    )


class TransformerOptions(DecoderOptions):
    """Options of the families with an encoder on the maps of a ResNet or a timm model."""

    backbone: str = option("resnet50", "``resnet18`` ... ``resnet101``, ``hgnetv2-b0`` (the library's own), or ``timm:<name>``.")
    widths: PerStage = option((), "Channels of the backbone's four stages instead of the usual ones.")
    depths: PerStage = option((), "Blocks of the backbone's four stages instead of the usual ones.")
    encoder_layers: int = option(6, "Encoder layers.", "encoder_layers", ge=0)


class MaskedOptions(TransformerOptions):
    """Options of the families that know the padding; their backbone's BatchNorms are constants."""

    auxiliary_loss: bool = option(True, "Losses on every decoder layer, not on the last alone.")
    init_std: float = option(
        0.02,
        "Standard deviation of untrained weights. The library's is for wide models; the original codes draw about "
        "d_model ** -0.5, 0.06 at 256 and 0.12 at 64.",
        "init_std",
        gt=0,
    )
    query_spread: float | None = option(
        None, "Standard deviation of untrained learned queries: 1 in the original codes; not given, the library's 0.02.", gt=0
    )


class HybridOptions(TransformerOptions):
    """Options of RT-DETR and its relatives: a hybrid encoder, queries from its tokens, denoising."""

    backbone: str = again(TransformerOptions, "backbone", "resnet18")
    norm: Literal["batch", "frozen"] = option(
        "batch", "``frozen`` makes the backbone's BatchNorms constants, as published (for pretrained backbones)."
    )
    encoder_width: int | None = option(None, "Width of the hybrid encoder; d_model where not given.", gt=0)
    encoder_layers: int = option(1, "Attention layers on the coarsest map.", "encoder_layers", ge=0)
    decoder_layers: int = again(TransformerOptions, "decoder_layers", 3)
    ffn: int = again(TransformerOptions, "ffn", 1024)
    expansion: float = option(
        1.0, "Width factor inside the fusion blocks (0.5 in the published R18 model).", "hidden_expansion", gt=0
    )
    queries: int = option(300, "Number of queries; at most the number of encoder tokens.", "num_queries", gt=0)
    points: int = option(4, "Sampled points per head and level.", "decoder_n_points", gt=0)
    dropout: float = option(0.0, "Dropout rate.", ("dropout", "attention_dropout"), ge=0, le=1)
    denoising: int = option(100, "Denoising queries; 0 turns them off.", "num_denoising", ge=0)
    label_noise: float = option(
        0.5, "Share of wrong labels among them (half of it is drawn).", "label_noise_ratio", ge=0, le=1
    )
    box_noise: float = option(1.0, "Size of their box shifts.", "box_noise_scale", ge=0)
    normalize: Literal["imagenet", "none"] = again(TransformerOptions, "normalize", "none")
