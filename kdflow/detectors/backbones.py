"""Backbones with a feature pyramid on top, from torchvision or timm."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from kdflow.detectors.expression import Expression
from kdflow.detectors.pyramids import P6P7, TimmPyramid
from kdflow.detectors.quiet import say_once
from kdflow.detectors.weight_files import read_state, without_prefix
from kdflow.errors import UsageError, choices
from kdflow.ports import Port

RESNETS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
MOBILE = ("mobilenet_v3_large", "mobilenet_v3_small", "mobilenet_v2")
"""torchvision's MobileNets, with the two maps that its own detectors read, both of stride 32."""
MOBILE_STAGES = 6
TIMM = "timm:"
Norm = Literal["batch", "frozen"]
Extra = Literal["pool", "p6p7", "p6p7_from_c5", "p6p7_linear"]


P6_FROM: Mapping[str, Extra] = {"p5": "p6p7", "c5": "p6p7_from_c5"}
"""What P6 is computed from -> the levels beyond P5."""


@dataclass(frozen=True)
class BackboneSpec:
    """What a pyramid is built from.

    Attributes:
        name: A torchvision ResNet (``resnet18``), one of :data:`MOBILE`, or ``timm:<name>`` for any timm model with
            ``features_only``.
        width: Channels of every pyramid level.
        norm: ``batch``, or ``frozen`` for BatchNorms whose statistics and weights are constants.
        first: First backbone stage that the pyramid reads, 2 (stride 4) to 5 (stride 32).
        extra: Levels beyond P5: ``pool`` (P6 by subsampling), ``p6p7`` (two convolutions on P5), ``p6p7_from_c5`` (on C5),
            ``p6p7_linear`` (on P5, no ReLU before the second).
        pretrained: Weights of the backbone alone: a state-dict file, a weight name of the library, or None.
        trainable: Number of stages that train, counted from C5 down; 5 trains all. None: 3 with pretrained weights, else 5.
        neck_norm: ``batch`` puts BatchNorms into the pyramid.
        depths: Blocks of a ResNet's four stages; empty for the usual ones.
        inner_width: Channels inside the bottlenecks of its first stage; None for the usual ones.
    """

    name: str
    width: int = 256
    norm: Norm = "batch"
    first: int = 2
    extra: Extra = "pool"
    pretrained: str | None = None
    trainable: int | None = None
    neck_norm: Literal["none", "batch"] = "none"
    depths: tuple[int, ...] = ()
    inner_width: int | None = None

    def __post_init__(self) -> None:
        """Raises UsageError for a pyramid that a MobileNet does not have, and pretrained weights of another network."""
        if self.reshaped and self.pretrained is not None:
            raise UsageError(
                "pretrained_backbone holds the weights of the usual blocks, which depths and inner_width change. Next: leave "
                "one of them out"
            )
        if self.name in MOBILE and (self.first != 2 or self.extra != "pool"):
            raise UsageError(
                f"{self.name} has the two maps of stride 32 that torchvision's Faster R-CNN reads, and no pyramid from P3 on. "
                f"Next: {TIMM} and timm's name of it, such as {TIMM}mobilenetv3_large_100"
            )

    @property
    def reshaped(self) -> bool:
        """True where its blocks are not the usual ones."""
        return bool(self.depths) or self.inner_width is not None

    @property
    def stages(self) -> tuple[int, ...]:
        """Backbone stages that the pyramid reads; of a MobileNet the last two maps, which have one stride."""
        return (5, 5) if self.name in MOBILE else tuple(range(self.first, 6))

    @property
    def levels(self) -> tuple[int, ...]:
        """Pyramid levels, finest first; level l has stride 2 ** l."""
        return (*self.stages, *((6,) if self.extra == "pool" else (6, 7)))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the levels in the library's dict."""
        count = len(self.stages)
        return (*(str(i) for i in range(count)), *(("pool",) if self.extra == "pool" else ("p6", "p7")))


class Body(nn.Module):
    """Stage: the backbone without its pyramid."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, pixels: Tensor) -> dict[str, Any]:
        """``maps``: C2..C5, or those the pyramid reads."""
        maps = self.body(pixels)
        return {"maps": list(maps.values()) if isinstance(maps, dict) else list(maps)}


class Neck(nn.Module):
    """Stage: the pyramid with its extra levels."""

    def __init__(self, fpn: FeaturePyramidNetwork) -> None:
        super().__init__()
        self.fpn = fpn

    def forward(self, maps: list[Tensor]) -> dict[str, Any]:
        """``maps``: pyramid levels, finest first."""
        return {"maps": list(self.fpn(OrderedDict((str(i), m) for i, m in enumerate(maps))).values())}


def build_backbone(spec: BackboneSpec) -> tuple[Expression, tuple[int, ...]]:
    """A backbone with its pyramid, as the expression that makes it, and the channels of the backbone stages that it reads.

    Raises:
        UsageError: The name is unknown, its strides do not fit a pyramid, or the pretrained weights do not.
    """
    if spec.name.startswith(TIMM):
        return _timm(spec)
    if spec.name in MOBILE:
        return _mobile(spec)
    if spec.name not in RESNETS:
        known = choices(spec.name, (*RESNETS, *MOBILE), limit=20)
        raise UsageError(f'no backbone "{spec.name}".{known} or {TIMM}<name of a timm model>')
    made = _resnet(spec)
    body = made.build()
    if spec.pretrained is not None:
        load_body(body, spec.name, spec.pretrained)
    _freeze_resnet(body, _trainable(spec))
    channels = [body.inplanes // 8 * 2 ** (s - 2) for s in spec.stages]
    layers = {f"layer{s - 1}": str(i) for i, s in enumerate(spec.stages)}
    pyramid = Expression(
        BackboneWithFPN, made, layers, channels, spec.width, extra_block(spec, channels[-1]), **_neck_norm(spec)
    )
    return pyramid.called("backbone"), tuple(channels)


def _resnet(spec: BackboneSpec) -> Expression:
    """Torchvision's model of this name, or the same class with blocks of another number or width."""
    made = Expression(torchvision.models.get_model, spec.name, norm_layer=norm_layer(spec.norm))
    if not spec.reshaped:
        return made
    with torch.device("meta"):
        usual = torchvision.models.get_model(spec.name)
    block, stages = type(usual.layer1[0]), (usual.layer1, usual.layer2, usual.layer3, usual.layer4)
    if spec.inner_width is not None and block is BasicBlock:
        raise UsageError(f"inner_width is for bottleneck blocks, which {spec.name} does not have. Next: resnet50, or depths")
    depths = list(spec.depths) or [len(stage) for stage in stages]
    width = usual.base_width if spec.inner_width is None else spec.inner_width
    options = {"groups": usual.groups, "width_per_group": width, "norm_layer": norm_layer(spec.norm)}
    return Expression(ResNet, block, depths, **options)


def _neck_norm(spec: BackboneSpec) -> dict[str, Any]:
    return {"norm_layer": nn.BatchNorm2d} if spec.neck_norm == "batch" else {}


def _mobile(spec: BackboneSpec) -> tuple[Expression, tuple[int, ...]]:
    """As in torchvision's own MobileNet detectors: the last map that halves the picture, and the last one of all."""
    _require_resnet(spec, False)
    made = Expression(torchvision.models.get_model, spec.name, norm_layer=norm_layer(spec.norm))
    whole = made.build()
    if spec.pretrained is not None:
        load_body(whole, spec.name, spec.pretrained)
    blocks = whole.features
    halving = [index for index, block in enumerate(blocks) if getattr(block, "_is_cn", False)]
    starts = [0, *halving, len(blocks) - 1]
    trainable = MOBILE_STAGES if _trainable(spec) == 5 else _trainable(spec)
    for block in blocks[: starts[MOBILE_STAGES - trainable] if trainable else len(blocks)]:
        block.requires_grad_(False)
    read = starts[-2:]
    channels = [blocks[index].out_channels for index in read]
    layers = {str(index): str(k) for k, index in enumerate(read)}
    features = Expression(getattr, made, "features").given(blocks)
    pyramid = Expression(
        BackboneWithFPN, features, layers, channels, spec.width, extra_block(spec, channels[-1]), **_neck_norm(spec)
    )
    return pyramid.called("backbone"), tuple(channels)


def norm_layer(norm: Norm) -> Callable[..., nn.Module]:
    """The BatchNorm class."""
    return nn.BatchNorm2d if norm == "batch" else FrozenBatchNorm2d


def extra_block(spec: BackboneSpec, coarsest: int) -> Expression:
    """The block that makes the levels beyond P5; ``coarsest`` is the width of C5."""
    if spec.extra == "pool":
        return Expression(LastLevelMaxPool)
    if spec.extra == "p6p7_linear":
        return Expression(P6P7, spec.width, spec.width)
    return Expression(LastLevelP6P7, spec.width if spec.extra == "p6p7" else coarsest, spec.width)


def _trainable(spec: BackboneSpec) -> int:
    if spec.trainable is None:
        return 3 if spec.pretrained else 5
    return spec.trainable


def _freeze_resnet(body: nn.Module, trainable: int) -> None:
    """Freeze all but the last ``trainable`` of conv1, layer1, ..., layer4; bn1 belongs to conv1."""
    kept = ("layer4", "layer3", "layer2", "layer1", "conv1", "bn1")[: trainable + (trainable == 5)]
    for name, parameter in body.named_parameters():
        if not name.startswith(kept):
            parameter.requires_grad_(False)


def _timm(spec: BackboneSpec) -> tuple[Expression, tuple[int, ...]]:
    import timm

    name, trainable = spec.name.removeprefix(TIMM), _trainable(spec)
    indices = timm_indices(name, spec.stages)
    _require_resnet(spec, timm.model_entrypoint(name).__module__ == "timm.models.resnet")
    shape = _timm_shape(spec)
    made = Expression(timm.create_model, name, features_only=True, out_indices=indices, **shape)
    made.given(create_timm(name, indices, spec.pretrained, shape))
    if spec.norm == "frozen":
        from timm.layers import freeze_batch_norm_2d

        made = Expression(freeze_batch_norm_2d, made)
    if trainable not in (0, 5) and spec.trainable is not None:
        raise UsageError(f"trainable_layers of a timm backbone is 0 (frozen) or 5 (all train), not {trainable}")
    body = made.build()
    body.requires_grad_(trainable > 0)
    channels = body.feature_info.channels()
    pyramid = Expression(
        TimmPyramid, made, list(channels), spec.width, extra_block(spec, channels[-1]), **_neck_norm(spec)
    )
    return pyramid.called("backbone"), tuple(channels)


def _require_resnet(spec: BackboneSpec, is_one: bool) -> None:
    if spec.reshaped and not is_one:
        key = "depths" if spec.depths else "inner_width"
        raise UsageError(f"{key} is for ResNets, which {spec.name} is not. Next: leave it out, or take another backbone")


def _timm_shape(spec: BackboneSpec) -> dict[str, Any]:
    """Timm's keywords for other blocks."""
    depths = {"layers": list(spec.depths)} if spec.depths else {}
    return {**depths, **({} if spec.inner_width is None else {"base_width": spec.inner_width})}


def timm_indices(name: str, stages: Sequence[int]) -> tuple[int, ...]:
    """Which of a timm model's features have the strides 2**stage; UsageError where one has not."""
    import timm

    if not timm.is_model(name):
        raise UsageError(f'timm has no model "{name}".{choices(name, timm.list_models(), limit=8)}')
    info = timm.create_model(name, features_only=True, pretrained=False)
    reductions = list(info.feature_info.reduction())
    if any(2**s not in reductions for s in stages):
        raise UsageError(
            f'timm model "{name}" has maps of strides {reductions}; needed are strides {[2**s for s in stages]}. '
            "Next: another backbone, or detector: features where it is a teacher of features only"
        )
    order = str(getattr(info, "output_fmt", "NCHW")).rpartition(".")[2]
    if order != "NCHW":
        raise UsageError(
            f'timm model "{name}" gives its maps as {order} (channels last), as Swin transformers do; needed are maps with '
            "channels first (NCHW). Next: another backbone, or detector: features where it is a teacher of features only"
        )
    return tuple(len(reductions) - 1 - reductions[::-1].index(2**s) for s in stages)


def create_timm(
    name: str, indices: Sequence[int], pretrained: str | None, shape: Mapping[str, Any] | None = None
) -> Any:
    """A timm feature extractor.

    Args:
        name: timm's name of it.
        indices: Features that it gives.
        pretrained: A state-dict file, or ``default`` for the weights that timm names.
        shape: Further keywords of the model.
    """
    import timm

    say_once()
    settings: dict[str, Any] = {"features_only": True, "out_indices": tuple(indices), **(shape or {})}
    if pretrained is None:
        return timm.create_model(name, pretrained=False, **settings)
    file = Path(pretrained).expanduser()
    try:
        if file.is_file():
            state = without_prefix(read_state(file, "pretrained_backbone"), {}, pretrained)
            model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"state_dict": state}, **settings)
            model.pretrained_cfg.pop("state_dict", None)  # else the model carries the file along
            return model
        tagged = name if pretrained == "default" else f"{name}.{pretrained}"
        return timm.create_model(tagged, pretrained=True, **settings)
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(f'pretrained_backbone "{pretrained}" of {TIMM}{name}: {str(error).splitlines()[0]}') from error


def load_body(body: nn.Module, name: str, pretrained: str) -> None:
    """Give a torchvision backbone its weights: a state-dict file, ``default``, or a weight name (``IMAGENET1K_V1``)."""
    file = Path(pretrained).expanduser()
    wanted = body.state_dict()
    if file.is_file():
        state = without_prefix(read_state(file, "pretrained_backbone"), wanted, pretrained)
    else:
        state = _library_weights(name, pretrained)
    # The classifier of an ImageNet model is never used in a detector, so files with or without it will do.
    own = {k: v for k, v in state.items() if k in wanted and not k.startswith(("fc.", "classifier."))}
    lacking = [
        k for k in wanted if k not in own and not k.startswith(("fc.", "classifier.")) and "num_batches" not in k
    ]
    wrong = [k for k, v in own.items() if v.shape != wanted[k].shape]
    if lacking or wrong:
        first = (lacking + wrong)[0]
        raise UsageError(f'pretrained_backbone "{pretrained}" is no {name}: {first} is missing or of another shape')
    body.load_state_dict(own, strict=False)


def _library_weights(name: str, pretrained: str) -> Any:
    known = torchvision.models.get_model_weights(name)
    wanted = "DEFAULT" if pretrained == "default" else pretrained.rpartition(".")[2]
    if wanted not in known.__members__:
        hint = choices(wanted, known.__members__)
        raise UsageError(f'{name}: pretrained_backbone "{pretrained}" is no file and no weight name.{hint}')
    try:
        return known[wanted].get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise UsageError(f'pretrained_backbone "{pretrained}" could not be fetched: {error}') from error


def map_ports(spec: BackboneSpec, channels: Sequence[int]) -> tuple[Port, Port]:
    """Ports of a backbone and of its pyramid."""
    return (
        Port("backbone", channels=tuple(channels), strides=tuple(2**s for s in spec.stages)),
        Port("neck", channels=spec.width, strides=tuple(2**level for level in spec.levels)),
    )
