"""A frozen backbone as a teacher: maps and tokens of any timm or transformers model with features (ViTs, Swin, ConvNeXt)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from kdflow.detectors.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from kdflow.detectors.quiet import say_once
from kdflow.detectors.weight_files import read_state, without_prefix
from kdflow.detectors.weights import no_names
from kdflow.errors import UsageError, choices
from kdflow.kinds import ANY, MAP, TOKENS
from kdflow.options import Options, option
from kdflow.ports import DETECTORS, Detections, Detector, DetectorFamily, ImageSizes, Port, Stage
from kdflow.source import Source

NAME = "features"
TIMM, TRANSFORMERS = "timm:", "transformers:"
FEATURE = "transformer/feature"


class FeaturesOptions(Options):
    """A backbone alone: no classes, no detection weights, no AP."""

    name = NAME
    model: str = option(
        ..., "``timm:<name>``, or ``transformers:<folder or hub name>`` of a model that the library offers as a backbone."
    )
    pretrained: str | None = option(
        "default", "timm: state-dict file, or tag of its weights (``default``); none: random weights."
    )
    layers: tuple[int, ...] = option(
        (), "Blocks or stages whose maps are offered, from 0; none: the last block of a plain ViT, every stage of others."
    )
    size: int | None = option(
        None, "Shorter side of the images that this model sees, where it is not the student's; the aspect is kept.", gt=0
    )


class TimmFeatures(nn.Module):
    """Maps of chosen layers of a timm model."""

    def __init__(self, model: Any, layers: Sequence[int]) -> None:
        super().__init__()
        self.model, self.layers = model, list(layers)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(B, C, H, W) per layer."""
        maps: list[Tensor] = self.model.forward_intermediates(
            pixels, indices=self.layers, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return list(maps)


class TransformersFeatures(nn.Module):
    """Maps of a backbone of the transformers library."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(B, C, H, W) per layer."""
        return list(self.model(pixels).feature_maps)


class Resized(nn.Module):
    """Images as the model wants them: resized, then normalised with its own statistics.

    Args:
        normalize: Its statistics.
        size: Shorter side; None keeps the images' own, up to the next multiple of ``divisor``.
        divisor: Sides that the model takes are multiples of this.
    """

    def __init__(self, normalize: Normalize, size: int | None, divisor: int) -> None:
        super().__init__()
        self.normalize, self.size, self.divisor = normalize, size, divisor

    def forward(self, images: Tensor, image_sizes: ImageSizes) -> dict[str, Any]:
        """``pixels`` (B, 3, h, w); the padding is zero."""
        canvas = (int(images.shape[-2]), int(images.shape[-1]))
        target = self.sides(canvas)
        if target != canvas:
            images = interpolate(images, target, mode="bilinear", antialias=True)
            scale = [own / given for own, given in zip(target, canvas)]
            image_sizes = [(round(h * scale[0]), round(w * scale[1])) for h, w in image_sizes]
        return self.normalize(images, image_sizes)

    def sides(self, canvas: tuple[int, int]) -> tuple[int, int]:
        """(height, width) that the model sees for a canvas."""
        factor = 1.0 if self.size is None else self.size / min(canvas)
        height, width = (max(1, round(side * factor / self.divisor)) * self.divisor for side in canvas)
        return height, width


class Maps(nn.Module):
    """The backbone; its last map as tokens too."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: Tensor) -> dict[str, Any]:
        """``maps`` (B, C, H, W) per layer, ``last`` the last of them, ``tokens`` (B, H*W, C) of it, row by row."""
        maps = self.backbone(pixels)
        return {"maps": maps, "last": maps[-1], "tokens": maps[-1].flatten(2).transpose(1, 2)}


def make(classes: tuple[str, ...], options: FeaturesOptions) -> Detector:
    """A backbone alone."""
    del classes
    if options.model.startswith(TIMM):
        backbone, statistics, licence = timm_features(options.model.removeprefix(TIMM), options)
    elif options.model.startswith(TRANSFORMERS):
        backbone, statistics, licence = transformers_features(options.model.removeprefix(TRANSFORMERS), options)
    else:
        raise UsageError(f'{NAME}: model is "{options.model}"; write {TIMM}NAME or {TRANSFORMERS}FOLDER_OR_NAME')
    channels, strides = geometry(backbone)
    resize = Resized(Normalize(*statistics), options.size, max(strides))
    maps = {
        "maps": Port("backbone", channels=channels, strides=strides),
        "last": Port("backbone.last", MAP, FEATURE, doc="the last of these maps"),
        "tokens": Port("tokens", TOKENS, FEATURE, channels=channels[-1], doc="(B, H*W, C) the last map's places, row by row"),
    }
    pixels = Port("normalize.pixels", ANY, doc="images as the backbone sees them")
    images = {"images": "images", "image_sizes": "image_sizes"}
    return Detector(
        NAME,
        "transformer",
        options.model.partition(":")[0],
        (),
        backbone,
        {
            "normalize": Stage(resize, images, {"pixels": pixels}),
            "backbone": Stage(Maps(backbone), {"pixels": "normalize.pixels"}, maps, dense=True),
        },
        inference=predict,
        writer=no_source,
        loader=no_names,
        licence=licence,
    )


def timm_features(name: str, options: FeaturesOptions) -> tuple[nn.Module, Any, str]:
    """Backbone, pixel statistics and licence of a timm model."""
    import timm

    if not timm.is_model(name):
        raise UsageError(f'timm has no model "{name}".{choices(name, timm.list_models(), limit=8)}')
    model = timm_model(name, options.pretrained)
    if not hasattr(model, "forward_intermediates"):
        raise UsageError(f'timm model "{name}" offers no features of its layers')
    info = list(model.feature_info)
    plain = len({entry["reduction"] for entry in info}) == 1
    layers = options.layers or ((len(info) - 1,) if plain else tuple(range(len(info))))
    if wrong := [layer for layer in layers if not 0 <= layer < len(info)]:
        raise UsageError(f'timm model "{name}" has layers 0 to {len(info) - 1}, not {wrong[0]}')
    config: Mapping[str, Any] = model.pretrained_cfg
    return TimmFeatures(model, layers), (config["mean"], config["std"]), str(config.get("license") or "")


def timm_model(name: str, pretrained: str | None) -> Any:
    """A timm model that takes images of any size its patches divide; UsageError where its weights cannot be had."""
    import timm

    say_once()
    file = Path(pretrained).expanduser() if pretrained else None
    settings: dict[str, Any] = {"num_classes": 0}
    if file is not None and file.is_file():
        state = without_prefix(read_state(file, "pretrained"), {}, str(pretrained))
        settings |= {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": state}}
    elif pretrained is not None:
        settings |= {"pretrained": True}
        name = name if pretrained == "default" else f"{name}.{pretrained}"
    # The keywords by which families take images of other sizes than they were trained on.
    for flexible in ({"dynamic_img_size": True}, {"strict_img_size": False, "dynamic_mask": True}, {}):
        try:
            model = timm.create_model(name, **settings, **flexible)
            model.pretrained_cfg.pop("state_dict", None)  # else the model carries the file along
            return model
        except TypeError:
            continue
        except (OSError, RuntimeError, ValueError) as error:
            raise UsageError(f'pretrained "{pretrained}" of {TIMM}{name}: {str(error).splitlines()[0]}') from error
    raise UsageError(f'timm cannot make "{name}"')


def transformers_features(name: str, options: FeaturesOptions) -> tuple[nn.Module, Any, str]:
    """Backbone, pixel statistics and licence of a model of the transformers library."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING

    chosen: dict[str, Any] = {"out_indices": [layer + 1 for layer in options.layers]} if options.layers else {}
    try:
        config = AutoConfig.from_pretrained(name)
        model = MODEL_FOR_BACKBONE_MAPPING[type(config)].from_pretrained(name, **chosen)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f'{TRANSFORMERS}{name} cannot be had as a backbone: {str(error).splitlines()[0]}') from error
    return TransformersFeatures(model), pixel_statistics(name), ""


def pixel_statistics(name: str) -> tuple[Sequence[float], Sequence[float]]:
    """What the model's image processor subtracts and divides by; ImageNet's where the folder has none."""
    from transformers import AutoImageProcessor

    try:
        processor: Any = AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError):
        return IMAGENET_MEAN, IMAGENET_STD
    return tuple(processor.image_mean), tuple(processor.image_std)


def geometry(backbone: nn.Module, side: int = 224) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels and strides of the maps, from a pass without numbers."""
    ghost = copy.deepcopy(backbone).to("meta").eval()
    with torch.no_grad():
        maps = ghost(torch.zeros(1, 3, side, side, device="meta"))
    strides = tuple(max(1, round(side / int(m.shape[-1]))) for m in maps)
    return tuple(int(m.shape[1]) for m in maps), strides


def predict(detector: Detector, images: Tensor, image_sizes: ImageSizes) -> Detections:
    """A backbone finds nothing; raises RuntimeError."""
    raise RuntimeError("a features teacher has no head and detects nothing")


def no_source(detector: Detector) -> Source:
    """A teacher is not exported."""
    raise UsageError("a features teacher is a backbone of its library, and is not exported")


DOC = "a frozen backbone as teacher: maps and tokens of timm and transformers models"
TINY = {"model": "timm:test_convnext", "pretrained": None}
DETECTORS.add(
    NAME, DetectorFamily(make, FeaturesOptions, "transformer", "timm, transformers", "the model's own", DOC, TINY)
)
