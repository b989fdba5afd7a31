"""YOLOX as plain modules on torch and torchvision alone: an exported student carries this file as it is.

Names of modules and order of the state dict are those of the released weights. Every cell predicts one box: class scores, an
objectness, the offset of the box's centre from the cell's corner in cells, and the logarithms of its sides in cells.
Source: Ge et al., YOLOX: Exceeding YOLO Series in 2021 (arXiv 2107.08430).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import batched_nms, clip_boxes_to_image


class Conv(nn.Sequential):
    """Convolution without bias, BatchNorm and SiLU, on maps of the same size but for the stride."""

    def __init__(self, inputs: int, outputs: int, side: int, stride: int = 1, groups: int = 1) -> None:
        layer = nn.Conv2d(inputs, outputs, side, stride, (side - 1) // 2, groups=groups, bias=False)
        super().__init__(OrderedDict(conv=layer, bn=nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03), act=nn.SiLU()))


def conv3(inputs: int, outputs: int, stride: int, depthwise: bool) -> nn.Sequential:
    """A 3x3 block; ``depthwise`` splits it into one convolution per channel and a 1x1 convolution."""
    if not depthwise:
        return Conv(inputs, outputs, 3, stride)
    parts: OrderedDict[str, nn.Module] = OrderedDict(dconv=Conv(inputs, inputs, 3, stride, groups=inputs))
    parts["pconv"] = Conv(inputs, outputs, 1)
    return nn.Sequential(parts)


class Focus(nn.Module):
    """Stacks the four phases of the pixels as channels, at half the size, then a 3x3 block."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv = Conv(12, outputs, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, H/2, W/2); phases top left, bottom left, top right, bottom right."""
        phases = [pixels[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.conv(torch.cat(phases, dim=1))


class Bottleneck(nn.Module):
    """A 1x1 and a 3x3 block; with ``add``, plus the input."""

    def __init__(self, width: int, add: bool, depthwise: bool) -> None:
        super().__init__()
        self.conv1 = Conv(width, width, 1)
        self.conv2 = conv3(width, width, 1, depthwise)
        self.add = add

    def forward(self, maps: Tensor) -> Tensor:
        """Maps of the same shape."""
        found = self.conv2(self.conv1(maps))
        return found + maps if self.add else found


class CSP(nn.Module):
    """Bottlenecks on one half of the channels, beside another half that skips them."""

    def __init__(self, inputs: int, outputs: int, count: int, add: bool, depthwise: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1 = Conv(inputs, half, 1)
        self.conv2 = Conv(inputs, half, 1)
        self.conv3 = Conv(2 * half, outputs, 1)
        self.m = nn.Sequential(*(Bottleneck(half, add, depthwise) for _ in range(count)))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        return self.conv3(torch.cat([self.m(self.conv1(maps)), self.conv2(maps)], dim=1))


class SPP(nn.Module):
    """Maxima over windows of several sides beside the maps themselves."""

    def __init__(self, width: int, sides: Sequence[int] = (5, 9, 13)) -> None:
        super().__init__()
        self.conv1 = Conv(width, width // 2, 1)
        self.m = nn.ModuleList(nn.MaxPool2d(side, 1, side // 2) for side in sides)
        self.conv2 = Conv(width // 2 * (len(sides) + 1), width, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps of the same shape."""
        maps = self.conv1(maps)
        return self.conv2(torch.cat([maps, *(pool(maps) for pool in self.m)], dim=1))


class CSPDarknet(nn.Module):
    """The backbone.

    Args:
        depth: Multiplier of the number of bottlenecks.
        width: Multiplier of the channels.
        depthwise: 3x3 blocks are depthwise.
    """

    def __init__(self, depth: float, width: float, depthwise: bool) -> None:
        super().__init__()
        channels, count = int(64 * width), max(round(3 * depth), 1)
        self.stem = Focus(channels)
        self.dark2 = self.stage(channels, depthwise, CSP(2 * channels, 2 * channels, count, True, depthwise))
        self.dark3 = self.stage(2 * channels, depthwise, CSP(4 * channels, 4 * channels, 3 * count, True, depthwise))
        self.dark4 = self.stage(4 * channels, depthwise, CSP(8 * channels, 8 * channels, 3 * count, True, depthwise))
        last = CSP(16 * channels, 16 * channels, count, False, depthwise)
        self.dark5 = self.stage(8 * channels, depthwise, SPP(16 * channels), last)

    @staticmethod
    def stage(inputs: int, depthwise: bool, *blocks: nn.Module) -> nn.Sequential:
        """Half the size and twice the channels, then ``blocks``."""
        return nn.Sequential(conv3(inputs, 2 * inputs, 2, depthwise), *blocks)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Maps of strides 8, 16 and 32."""
        first = self.dark3(self.dark2(self.stem(pixels)))
        second = self.dark4(first)
        return [first, second, self.dark5(second)]


class PAFPN(nn.Module):
    """The backbone with its neck: top down by upsampling, then bottom up; the levels keep unlike widths.

    Args:
        depth: Multiplier of the number of bottlenecks.
        width: Multiplier of the channels.
        depthwise: 3x3 blocks are depthwise.
    """

    def __init__(self, depth: float, width: float, depthwise: bool = False) -> None:
        super().__init__()
        fine, middle, coarse = level_widths(width)
        count = round(3 * depth)

        def block(inputs: int, outputs: int) -> CSP:
            return CSP(inputs, outputs, count, False, depthwise)

        self.backbone = CSPDarknet(depth, width, depthwise)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.lateral_conv0 = Conv(coarse, middle, 1)
        self.C3_p4 = block(2 * middle, middle)
        self.reduce_conv1 = Conv(middle, fine, 1)
        self.C3_p3 = block(2 * fine, fine)
        self.bu_conv2 = conv3(fine, fine, 2, depthwise)
        self.C3_n3 = block(2 * fine, middle)
        self.bu_conv1 = conv3(middle, middle, 2, depthwise)
        self.C3_n4 = block(2 * middle, coarse)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Maps of strides 8, 16 and 32."""
        return self.fuse(self.backbone(pixels))

    def fuse(self, maps: list[Tensor]) -> list[Tensor]:
        """The neck on the backbone's maps."""
        fine, middle, coarse = maps
        top = self.lateral_conv0(coarse)
        inner = self.reduce_conv1(self.C3_p4(torch.cat([self.upsample(top), middle], dim=1)))
        first = self.C3_p3(torch.cat([self.upsample(inner), fine], dim=1))
        second = self.C3_n3(torch.cat([self.bu_conv2(first), inner], dim=1))
        return [first, second, self.C3_n4(torch.cat([self.bu_conv1(second), top], dim=1))]


def level_widths(width: float) -> tuple[int, int, int]:
    """Channels of backbone and neck at strides 8, 16 and 32."""
    return int(256 * width), int(512 * width), int(1024 * width)


class Head(nn.Module):
    """A decoupled head; no weights are shared by the levels.

    Args:
        classes: Number of classes, no background.
        width: Multiplier of the channels.
        depthwise: 3x3 blocks are depthwise.
    """

    strides = (8, 16, 32)

    def __init__(self, classes: int, width: float, depthwise: bool = False) -> None:
        super().__init__()
        self.classes = classes
        self.width = own = int(256 * width)

        def towers() -> nn.ModuleList:
            blocks = ([conv3(own, own, 1, depthwise) for _ in range(2)] for _ in self.strides)
            return nn.ModuleList(nn.Sequential(*pair) for pair in blocks)

        def predictors(outputs: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(own, outputs, 1) for _ in self.strides)

        self.cls_convs, self.reg_convs = towers(), towers()
        self.cls_preds, self.reg_preds, self.obj_preds = predictors(classes), predictors(4), predictors(1)
        self.stems = nn.ModuleList(Conv(inputs, own, 1) for inputs in level_widths(width))
        for predictor in (*self.cls_preds, *self.obj_preds):
            nn.init.constant_(predictor.bias, -math.log(99))  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor]) -> dict[str, list[Tensor]]:
        """Outputs of :meth:`predict` per level."""
        found: dict[str, list[Tensor]] = {}
        for level, features in enumerate(maps):
            stem = self.stems[level](features)
            outputs = self.predict(self.cls_convs[level](stem), self.reg_convs[level](stem), level)
            for name, value in outputs.items():
                found.setdefault(name, []).append(value)
        return found

    def predict(self, classes: Tensor, boxes: Tensor, level: int) -> dict[str, Tensor]:
        """``logits`` (B, H*W, K), ``objectness`` (B, H*W) and ``deltas`` (B, H*W, 4) of one level, from both towers."""
        return {
            "logits": self.cls_preds[level](classes).flatten(2).transpose(1, 2),
            "objectness": self.obj_preds[level](boxes).flatten(1),
            "deltas": self.reg_preds[level](boxes).flatten(2).transpose(1, 2),
        }


def cell_boxes(maps: list[Tensor], strides: Sequence[int]) -> list[Tensor]:
    """Per level (H * W, 4) xyxy: the cells, row by row."""
    found = []
    for m, stride in zip(maps, strides):
        y, x = (torch.arange(side, dtype=torch.float32, device=m.device) * stride for side in m.shape[-2:])
        corners = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1).reshape(-1, 2)
        found.append(torch.cat([corners, corners + stride], dim=1))
    return found


def full(values: Tensor) -> Tensor:
    """The values in single precision where they came in half."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def decode(deltas: Tensor, cells: Tensor) -> Tensor:
    """Centre and sides in pixels, (..., R, 4), of what the cells (R, 4) predict; never in half precision."""
    deltas, stride = full(deltas), cells[:, 2:] - cells[:, :2]
    return torch.cat([(deltas[..., :2] + cells[:, :2] / stride) * stride, deltas[..., 2:].exp() * stride], dim=-1)


def corners_of(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) from centre and sides to xyxy."""
    return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], dim=-1)


class Letterbox(GeneralizedRCNNTransform):
    """Resizes pictures into the top left corner of a grey canvas.

    Args:
        bgr: Channels are blue, green, red.
        scale: Largest value of a pixel, 255 or 1.
        grey: Of 0..255, what the canvas is filled with.
        resizing: Settings of torchvision's ``GeneralizedRCNNTransform``.
    """

    def __init__(self, bgr: bool, scale: int, grey: int, **resizing: Any) -> None:
        super().__init__(image_mean=[0.0] * 3, image_std=[1.0] * 3, **resizing)
        self.bgr, self.scale, self.grey = bgr, scale, grey

    def normalize(self, image: Tensor) -> Tensor:
        """RGB values in 0..1, (..., 3, H, W), as the network takes them."""
        return (image.flip(-3) if self.bgr else image) * self.scale

    def batch_images(self, images: list[Tensor], size_divisible: int = 32) -> Tensor:
        """Pictures as one batch, padded with grey."""
        batch = super().batch_images(images, size_divisible)
        return self.fill(batch, [(int(image.shape[-2]), int(image.shape[-1])) for image in images])

    def fill(self, batch: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Overwrites all that lies beyond each picture's own (height, width)."""
        for own, (height, width) in zip(batch, sizes):
            own[:, height:] = self.grey * self.scale / 255
            own[:, :, width:] = self.grey * self.scale / 255
        return batch


class YOLOX(nn.Module):
    """Backbone with neck, head, and inference as in torchvision's detectors.

    Called with a list of (3, H, W) images in 0..1 in evaluation mode, it returns ``boxes``, ``scores`` and ``labels`` (0-based)
    per image.

    Args:
        backbone: A :class:`PAFPN`.
        head: A :class:`Head`.
        bgr: See :class:`Letterbox`.
        scale: See :class:`Letterbox`.
        grey: See :class:`Letterbox`.
        score_thresh: Least score of a detection.
        nms_thresh: IoU above which a worse detection of the same class is dropped.
        detections_per_img: Most detections per image.
        resizing: Settings of torchvision's ``GeneralizedRCNNTransform``.
    """

    def __init__(
        self,
        backbone: PAFPN,
        head: Head,
        *,
        bgr: bool = True,
        scale: int = 255,
        grey: int = 114,
        score_thresh: float = 0.01,
        nms_thresh: float = 0.65,
        detections_per_img: int = 100,
        **resizing: Any,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.transform = Letterbox(bgr, scale, grey, **resizing)
        self.score_thresh, self.nms_thresh = score_thresh, nms_thresh
        self.detections_per_img = detections_per_img

    def forward(self, images: list[Tensor], targets: Any = None) -> list[dict[str, Tensor]]:
        """Detections; RuntimeError in training mode, whose losses are not part of this module."""
        if self.training:
            raise RuntimeError("this module detects in evaluation mode only: call .eval() first")
        originals = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        batch: ImageList = self.transform(images, targets)[0]
        maps = self.backbone(batch.tensors)
        found = self.postprocess_detections(self.head(maps), cell_boxes(maps, self.head.strides), batch.image_sizes)
        return self.transform.postprocess(found, batch.image_sizes, originals)

    def postprocess_detections(
        self, outputs: dict[str, list[Tensor]], priors: list[Tensor], image_sizes: Sequence[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """Suppression among whole boxes, as released; then boxes are cut at the border of the picture."""
        joined = {name: full(torch.cat(levels, dim=1)) for name, levels in outputs.items()}
        boxes = corners_of(decode(joined["deltas"], torch.cat(priors)))
        chances = joined["logits"].sigmoid() * joined["objectness"].sigmoid()[..., None]
        found = [self.suppress(*one) for one in zip(boxes, chances)]
        return [{**one, "boxes": clip_boxes_to_image(one["boxes"], size)} for one, size in zip(found, image_sizes)]

    def suppress(self, boxes: Tensor, chances: Tensor) -> dict[str, Tensor]:
        """One class per cell, then suppression per class.

        Args:
            boxes: (R, 4) xyxy.
            chances: (R, K) probability of each class.
        """
        scores, labels = chances.max(dim=1)
        kept = torch.where(scores >= self.score_thresh)[0]
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        kept = batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
        return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}
