"""Layouts in which golden files store what the graph keeps in another form."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def anchor_cells(levels: list[Tensor]) -> list[Tensor]:
    """(B, A, H, W) per level -> (B, H*W*A, 1)."""
    return [t.permute(0, 2, 3, 1).reshape(t.shape[0], -1, 1) for t in levels]


def cell_values(levels: list[Tensor]) -> list[Tensor]:
    """(B, A, H, W) per level -> (B, H*W*A)."""
    return [t.permute(0, 2, 3, 1).reshape(t.shape[0], -1) for t in levels]


def dense(levels: list[Tensor]) -> list[Tensor]:
    """(B, C, H, W) per level, one anchor -> (B, H*W, C)."""
    return [t.permute(0, 2, 3, 1).flatten(1, 2) for t in levels]


def no_box_axis(masks: list[Tensor]) -> list[Tensor]:
    """Masks (B, 1, H, W) -> (B, H, W)."""
    return [m.squeeze(1) for m in masks]


def canvas(size: Tensor) -> Tensor:
    """(height, width) -> an empty image of that size."""
    height, width = (int(s) for s in size)
    return torch.zeros(1, 3, height, width)


def positive(labels: Any) -> Any:
    """Labels -> True where positive (1), per level or flat."""
    return [t > 0 for t in labels] if isinstance(labels, list) else labels > 0


def foreground(labels: Tensor, background: Tensor) -> Tensor:
    """Class labels -> True where not the background class."""
    return labels != background


def background(labels: Tensor, index: Tensor) -> Tensor:
    """Class labels -> True where the background class."""
    return labels == index


def by_image(levels: list[Tensor]) -> Tensor:
    """(B, R_l) per level -> (B, R)."""
    return torch.cat(levels, dim=1)


def split_priors(priors: Tensor, counts: Tensor) -> list[Tensor]:
    """(R, 4) -> (R_l, 4) per level."""
    return list(priors.split(counts.tolist()))


def assigned(indices: list[Tensor], counts: Tensor) -> list[Tensor]:
    """Per image (R,) object of each prior, -1 for none -> True where assigned, (B, R_l) per level."""
    return list((torch.stack(indices) >= 0).split(counts.tolist(), dim=1))


def all_places(indices: list[Tensor], counts: Tensor) -> list[Tensor]:
    """Ones (B, R_l) per level: no place lies on padding."""
    return list(torch.ones(len(indices), int(counts.sum())).split(counts.tolist(), dim=1))


def resized_side(student: float) -> str:
    """1 -> student, 0 -> teacher."""
    return "student" if student else "teacher"


def product(*factors: float) -> float:
    """Of scalars."""
    return math.prod(factors)


def one_level(features: Tensor) -> list[Tensor]:
    """A map -> a pyramid of one level."""
    return [features]


def only(levels: list[Tensor]) -> Tensor:
    """A pyramid of one level -> its map."""
    (level,) = levels
    return level


def decoded(deltas: list[Tensor], anchors: list[Tensor]) -> list[Tensor]:
    """Deltas and anchors per level -> boxes, written out here so that the spec's own decoding is not its own witness."""
    boxes = []
    for own, anchor in zip(deltas, anchors, strict=True):
        side = anchor[:, 2:] - anchor[:, :2]
        center = anchor[:, :2] + side / 2 + own[..., :2] * side
        half = side * own[..., 2:].clamp(max=math.log(1000 / 16)).exp() / 2
        boxes.append(torch.cat([center - half, center + half], dim=-1))
    return boxes


def sizes(image_sizes: Tensor) -> list[tuple[int, int]]:
    """(B, 2) height and width -> a list of pairs."""
    return [(int(height), int(width)) for height, width in image_sizes]


def convolution(kernel: Tensor, stride: Tensor, transposed: float) -> dict[str, Any]:
    """Geometry of a layer, equal in height and width -> the adapter that has it."""
    return {
        "op": "adapter.conv", "features": "student.neck", "like": "teacher.neck", "kernel": int(kernel[0]),
        "stride": int(stride[0]), "transposed": bool(transposed), "norm": "batch", "activation": "relu",
    }


def scores_of(instances: dict[str, list[Tensor]]) -> list[Tensor]:
    """Of an op with several outputs."""
    return instances["scores"]


def joined(parts: list[Tensor]) -> Tensor:
    """Per image (n, ...) -> (N, ...)."""
    return torch.cat(parts)


def ones_for(boxes: list[Tensor]) -> Tensor:
    """Every one of the boxes of all images."""
    return torch.ones(sum(len(b) for b in boxes))


def class_of_rows(start: Tensor, levels: list[Tensor]) -> list[Tensor]:
    """First row of each class -> class of every row, the same for all levels."""
    classes = torch.repeat_interleave(torch.arange(len(start) - 1), start.diff())
    return [classes for _ in levels]


def per_image(levels: list[Tensor], boxes: list[Tensor]) -> list[list[Tensor]]:
    """(N,) per level -> per level and image."""
    return [list(level.split([len(b) for b in boxes])) for level in levels]


def boxes_as_priors(boxes: list[Tensor]) -> list[Tensor]:
    """All boxes of the batch as the anchors of one level."""
    return [torch.cat(boxes)]


def own_boxes(boxes: list[Tensor]) -> list[Tensor]:
    """True where an anchor of :func:`boxes_as_priors` is a box of the image."""
    image = torch.repeat_interleave(torch.arange(len(boxes)), torch.tensor([len(b) for b in boxes]))
    return [image[None] == torch.arange(len(boxes))[:, None]]


def labels_everywhere(labels: list[Tensor]) -> list[Tensor]:
    """Classes of the anchors of :func:`boxes_as_priors`, for every image."""
    return [torch.cat(labels).expand(len(labels), -1)]


def no_scores(boxes: list[Tensor]) -> list[Tensor]:
    """Class scores of the anchors of :func:`boxes_as_priors` that nothing is compared with."""
    return [torch.zeros(len(boxes), sum(len(b) for b in boxes), 2)]


CELL = 32


def vectors_as_map(vectors: Tensor) -> list[Tensor]:
    """(n, C) -> a map of one row of n cells."""
    return [vectors.T[None, :, None, :]]


def cells_as_boxes(vectors: Tensor) -> list[Tensor]:
    """A box inside each cell of :func:`vectors_as_map`."""
    first = torch.arange(len(vectors)) * CELL + 0.5
    last = first + CELL - 1
    return [torch.stack([first, torch.full_like(first, 0.5), last, torch.full_like(first, CELL - 0.5)], dim=1)]


def one_class(vectors: Tensor) -> list[Tensor]:
    """The same class for all boxes of :func:`cells_as_boxes`."""
    return [torch.zeros(len(vectors), dtype=torch.long)]


def image_of_cells(vectors: Tensor) -> Tensor:
    """An empty image of the size of :func:`vectors_as_map`."""
    return torch.zeros(1, 3, CELL, CELL * len(vectors))


def row_numbers(prototypes: dict[str, list[Tensor]], vectors: Tensor) -> Tensor:
    """Which of the vectors every prototype is."""
    return torch.cdist(prototypes["student"][0].double(), vectors).argmin(1)


def layers(values: Tensor) -> list[Tensor]:
    """(L, ...) -> a list over decoder layers."""
    return list(values)


def stacked(values: list[Tensor]) -> Tensor:
    """A list over decoder layers -> (L, ...)."""
    return torch.stack(list(values))


def equal_sizes(size: Tensor, images: list[Tensor]) -> list[tuple[int, int]]:
    """The same (height, width) for all images."""
    return [(int(size[0]), int(size[1])) for _ in images]


def partners(pairs: list[list[tuple[Tensor, Tensor]]], logits: Tensor) -> Tensor:
    """Teacher query of every student query (L, B, N), -1 for none."""
    found = torch.full(logits.shape[:3], -1)
    for layer, images in enumerate(pairs):
        for image, (ours, theirs) in enumerate(images):
            found[layer, image, ours] = theirs
    return found


def mean_of_rows(layers: list[Tensor], weight: Tensor) -> Tensor:
    """Summed over all but the rows, averaged over the rows, weighted: (L,)."""
    return torch.stack([weight * layer.reshape(len(layer), -1).sum(1).mean() for layer in layers])


def summed(values: list[Tensor]) -> list[Tensor]:
    """Of all entries."""
    return [value.sum() for value in values]


def shifted_anchors(at_origin: Tensor, stride: Tensor, like: Tensor) -> list[Tensor]:
    """Anchors of cell (0, 0) -> those of all cells of one map, order y, x, anchor."""
    y, x = torch.meshgrid(torch.arange(like.shape[-2]), torch.arange(like.shape[-1]), indexing="ij")
    shifts = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4) * stride
    return [(shifts + at_origin[None]).reshape(-1, 4)]


def shifted_levels(at_origin: list[Tensor], strides: Tensor, like: list[Tensor]) -> list[Tensor]:
    """The same for every level."""
    return [shifted_anchors(*level)[0] for level in zip(at_origin, strides, like, strict=True)]


def only_mask(masks: list[Tensor]) -> Tensor:
    """One mask (B, 1, H, W) -> (B, H, W)."""
    (mask,) = masks
    return mask.squeeze(1)


def masks_of_taed(with_channels: float) -> list[str]:
    """1 -> factors by place and channel, 0 -> by place."""
    return ["places", "channels"] if with_channels else ["places"]


def as_maps(levels: list[Tensor], like: list[Tensor]) -> list[Tensor]:
    """(B, H*W*A, C) per level -> (B, A*C, H, W) with the heights and widths of ``like``."""
    maps = []
    for values, m in zip(levels, like):
        height, width = m.shape[-2:]
        maps.append(values.reshape(len(values), height, width, -1).permute(0, 3, 1, 2))
    return maps


def tower(branch: str) -> Any:
    """Index of the reused block -> the port of that block's output."""
    return lambda index: f"{branch}.{int(index)}"


student_classes, student_boxes = tower("student.head.cls_tower"), tower("student.head.box_tower")
teacher_classes, teacher_boxes = tower("teacher.head.cls_tower"), tower("teacher.head.box_tower")


def known_class(labels: list[Tensor], classes: Tensor) -> list[Tensor]:
    """Labels per level -> True where they name a class and not the background."""
    return [(level >= 0) & (level < classes) for level in labels]


def split_by_image(proposals: Tensor, like: Tensor) -> list[Tensor]:
    """(n, 5) image number and box -> boxes per image of ``like``."""
    return [proposals[proposals[:, 0] == image, 1:] for image in range(len(like))]


def sorted_by_level(blocks: Tensor, proposals: Tensor, strides: Tensor, base: Tensor, border: Tensor) -> Tensor:
    """Blocks of :func:`split_by_image` in the order of levels, and of the proposals within one level."""
    by_image = torch.argsort(proposals[:, 0], stable=True)
    sides = (proposals[:, 3:] - proposals[:, 1:3] + border).prod(1).sqrt()
    levels = torch.log2(sides / base + 1e-6).floor().clamp(0, len(strides) - 1)
    return blocks[torch.argsort(by_image)][torch.argsort(levels, stable=True)]


def inverse_sides(edges: Tensor) -> Tensor:
    """Distances to left, top, right, bottom -> 1 over the side that each belongs to."""
    sides = (edges[..., :2] + edges[..., 2:]).repeat(1, 1, 2)
    return torch.where(sides > 0, 1 / sides, 0)


def not_padding(flags: Tensor) -> Tensor:
    """True where padding -> 1 elsewhere."""
    return (~flags).float()


def hidden_places(visible: Tensor) -> Tensor:
    """1 where visible -> 1 where not."""
    return 1 - visible


def unit_sizes(values: Tensor) -> list[tuple[int, int]]:
    """One by one for every image (B, ...): boxes stay normalised."""
    return [(1, 1) for _ in values]


def without_hidden(logits: Tensor, padding: Tensor) -> Tensor:
    """Attention logits, 0 on padding."""
    return torch.where(padding.bool()[:, None, None], 0, logits)


def finite_logits(parts: list[Tensor]) -> list[Tensor]:
    """Attention logits, 0 where they are as good as minus infinity."""
    return [torch.where(part < -1e29, 0, part) for part in parts]


def mask_after_warmup(custom: float) -> list[str]:
    """1 -> the student's masks count as well, 0 -> only the teacher's."""
    return ["custom_mask"] if custom else ["same_mask"]


def positives_per_level(labels: Tensor, classes: Tensor, maps: list[Tensor]) -> list[Tensor]:
    """(B, R) assigned classes -> True where an object, per level of these maps."""
    return values_per_level((labels >= 0) & (labels < classes), maps)


def values_per_level(values: Tensor, maps: list[Tensor]) -> list[Tensor]:
    """(B, R) -> (B, R_l) per level of these maps."""
    return list(values.split([one.shape[-2] * one.shape[-1] for one in maps], dim=1))


def as_blocks(rows: Tensor) -> Tensor:
    """(n, ...) -> (n, D, 1, 1)."""
    return rows.flatten(1)[..., None, None]


def over_samples(summed: float) -> list[str]:
    """1 -> divided by the numbers of a sample, 0 -> by all numbers."""
    return ["c"] if summed else ["elements"]


def objects_then_rest(objects: list[Tensor], rest: list[Tensor]) -> Tensor:
    """Rows of every image, objects first -> all rows, images in order."""
    return torch.cat([part for image in zip(objects, rest, strict=True) for part in image])


def any_boxes(*groups: list[Tensor]) -> list[Tensor]:
    """As many boxes per image as it has rows in all groups together."""
    return [torch.zeros(sum(len(rows) for rows in image), 4) for image in zip(*groups, strict=True)]


def is_object(objects: list[Tensor], rest: list[Tensor]) -> Tensor:
    """True for the rows of :func:`objects_then_rest` that are objects."""
    return objects_then_rest([torch.ones(len(o)) > 0 for o in objects], [torch.zeros(len(r)) > 0 for r in rest])


def is_rest(objects: list[Tensor], rest: list[Tensor]) -> Tensor:
    """True for the others."""
    return ~is_object(objects, rest)


def rest_labels(objects: list[Tensor], rest: list[Tensor], background: Tensor) -> Tensor:
    """Class 0 for objects, the background's for the rest."""
    return is_rest(objects, rest).long() * background


def rest_logits(objects: list[Tensor], logits: list[Tensor]) -> Tensor:
    """Logits of the rest, zeros for objects."""
    return objects_then_rest([logits[0].new_zeros(len(o), logits[0].shape[1]) for o in objects], logits)


def rows_of_objects(values: Tensor, objects: list[Tensor], rest: list[Tensor]) -> list[Tensor]:
    """The objects' rows of every image, from :func:`objects_then_rest`."""
    return list(values.split([len(part) for image in zip(objects, rest, strict=True) for part in image])[0::2])


def rows_of_rest(values: Tensor, objects: list[Tensor], rest: list[Tensor]) -> list[Tensor]:
    """The other rows of every image."""
    return list(values.split([len(part) for image in zip(objects, rest, strict=True) for part in image])[1::2])


def numbers_in_rest(chosen: Tensor, objects: list[Tensor], rest: list[Tensor]) -> list[Tensor]:
    """Which of the other rows of every image are chosen."""
    return [rows.nonzero().flatten() for rows in rows_of_rest(chosen, objects, rest)]


def chance_of(cross_entropy: float) -> float:
    """A cross-entropy -> the chance that it is the negative logarithm of."""
    return math.exp(-cross_entropy)


def known_labels(labels: list[Tensor]) -> list[Tensor]:
    """Per image (R,) -> one level (B, R), True where not ignored."""
    return [torch.stack(labels) >= 0]


def objects_of_labels(labels: list[Tensor], background: Tensor) -> list[Tensor]:
    """Per image (R,) -> one level (B, R), True where an object's class."""
    joined = torch.stack(labels)
    return [(joined >= 0) & (joined < background)]


def anchors_of_level(levels: list[Tensor], count: Tensor) -> list[Tensor]:
    """(B, A*C, H, W) per level -> all levels as one (B, sum H*W*A, C)."""
    parts = [t.unflatten(1, (int(count), -1)).permute(0, 3, 4, 1, 2).flatten(1, 3) for t in levels]
    return [torch.cat(parts, dim=1)]


def as_anchor_maps(joined: list[Tensor], levels: list[Tensor], count: Tensor) -> list[Tensor]:
    """The inverse of :func:`anchors_of_level`."""
    parts = joined[0].split([t.shape[-2] * t.shape[-1] * int(count) for t in levels], dim=1)
    return [
        part.unflatten(1, (*t.shape[-2:], int(count))).permute(0, 3, 4, 1, 2).flatten(1, 2)
        for part, t in zip(parts, levels, strict=True)
    ]


def rows_per_image(values: Tensor, images: list[Tensor]) -> list[Tensor]:
    """(N, ...) -> per image as many rows as it has there."""
    return list(values.split([len(own) for own in images]))


def times(value: Tensor, factor: Tensor) -> Tensor:
    """A number times a constant of the case."""
    return value * factor


def source_image(sources: Tensor) -> Tensor:
    """(N, 5) image, level, row, column, anchor -> the image."""
    return sources[:, 0].long()


def source_cell(sources: Tensor, maps: list[Tensor]) -> Tensor:
    """(N, 5) -> the cell counted over all levels row by row, -1 where the level is."""
    cells = [one.shape[-2] * one.shape[-1] for one in maps]
    starts, widths = torch.tensor([0, *cells]).cumsum(0), torch.tensor([one.shape[-1] for one in maps])
    level, row, column = (sources[:, i].long() for i in (1, 2, 3))
    known = level.clamp(min=0)
    return torch.where(level >= 0, starts[known] + row * widths[known] + column, -1)


def source_anchor(sources: Tensor) -> Tensor:
    """(N, 5) -> the anchor."""
    return sources[:, 4].long()


def source_found(sources: Tensor) -> Tensor:
    """(N, 5) -> 1 where there is a level."""
    return (sources[:, 1] >= 0).float()


def with_coarsest(levels: list[Tensor]) -> list[Tensor]:
    """A pyramid with one more level of a single cell behind the others."""
    return [*levels, levels[-1][..., :1, :1].clone()]


def with_finest(levels: list[Tensor]) -> list[Tensor]:
    """A pyramid with one more level of double size before the others."""
    return [levels[0].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3), *levels]


def without_finest(levels: list[Tensor]) -> list[Tensor]:
    """A pyramid without its first level."""
    return levels[1:]


def zeros_of(values: Any) -> Any:
    """Zeros of the same shapes."""
    return [torch.zeros_like(v) for v in values] if isinstance(values, list) else torch.zeros_like(values)


def half_zeros(image: Tensor) -> Tensor:
    """Zeros of every other row and column."""
    return torch.zeros_like(image[..., ::2, ::2])


def mean_of_branches(first: Tensor, second: Tensor, maps: list[Tensor]) -> list[Tensor]:
    """Logits (B, K, A) of two branches -> their mean, (B, R, K) per level of these maps."""
    return one_branch((first + second) / 2, maps)


def one_branch(logits: Tensor, maps: list[Tensor]) -> list[Tensor]:
    """Logits (B, K, A) -> (B, R, K) per level of these maps."""
    return values_per_level(logits.transpose(1, 2), maps)


def rest_of_one(share: float) -> float:
    """What a share leaves."""
    return 1 - share


def negative(number: float) -> float:
    """Minus a number."""
    return -number


def background_last(logits: Tensor) -> Tensor:
    """Scores whose background comes first -> last."""
    return logits.roll(-1, 1)


def background_first(logits: Tensor) -> Tensor:
    """The inverse."""
    return logits.roll(1, 1)


def certain(labels: Tensor, logits: Tensor) -> Tensor:
    """Labels, 0 the background -> logits that leave no doubt, the background last."""
    return background_last(1e4 * torch.nn.functional.one_hot(labels.long(), logits.shape[1]).to(logits.dtype))


def every_row(rows: Tensor) -> Tensor:
    """Ones."""
    return rows.new_ones(len(rows))


def three_bands(levels: list[Tensor]) -> list[Tensor]:
    """(B, 3C, h, w), band by band -> (B, C, 3, h, w)."""
    return [level.unflatten(1, (3, -1)).transpose(1, 2) for level in levels]


def cells_of_anchors(levels: list[Tensor], classes: Tensor) -> list[Tensor]:
    """(B, A*C, H, W) -> (B, H*W*A, C), order y, x, anchor."""
    return [t.permute(0, 2, 3, 1).reshape(len(t), -1, int(classes)) for t in levels]


def as_class_maps(levels: list[Tensor], like: list[Tensor]) -> list[Tensor]:
    """The inverse of :func:`cells_of_anchors`."""
    return [t.reshape(len(t), *m.shape[-2:], -1).permute(0, 3, 1, 2) for t, m in zip(levels, like, strict=True)]


def labels_by_index(index: Tensor, labels: list[Tensor], maps: list[Tensor], classes: Tensor) -> list[Tensor]:
    """Object of each anchor, -1 for none -> its class, the number of classes for none, per level of these maps."""
    none = torch.as_tensor([int(classes)])
    joined = torch.stack([torch.cat([own.long(), none])[row.long()] for row, own in zip(index, labels, strict=True)])
    return list(joined.split([m[0, 0].numel() * (m.shape[1] // int(classes)) for m in maps], dim=1))


def boxes_for(labels: list[Tensor]) -> list[Tensor]:
    """As many boxes per image as it has labels."""
    return [torch.zeros(len(own), 4) for own in labels]


def refined(corners: Tensor, reference: Tensor, bins: Tensor, scale: Tensor, up: Tensor) -> list[Tensor]:
    """D-FINE's boxes cxcywh per layer from edge logits (L, B, N, 4(R+1)) around reference boxes (B, N, 4)."""
    count, bound = int(bins), float(up * scale)
    step = (bound + 1) ** (2 / (count - 2))
    outer = [step**k - 1 for k in range(1, count // 2)]
    places = torch.tensor([-2 * bound, *(-v for v in reversed(outer)), 0, *outer, 2 * bound], dtype=corners.dtype)
    moves = corners.detach().unflatten(-1, (4, -1)).softmax(-1) @ places
    width = reference[..., 2:].repeat(1, 1, 2) / scale
    sign = torch.tensor([-1, -1, 1, 1], dtype=corners.dtype)
    edges = reference[..., :2].repeat(1, 1, 2) + sign * (scale / 2 + moves) * width
    return list(torch.cat([(edges[..., :2] + edges[..., 2:]) / 2, edges[..., 2:] - edges[..., :2]], -1))


def partners_of(rows: Tensor, index: Tensor) -> list[Tensor]:
    """(B, N', C) and the row of each query (B, N) -> one layer of (B, N, C)."""
    return [torch.stack([own[row.long()] for own, row in zip(rows, index, strict=True)])]


def columns_of(pairs: list[Tensor]) -> list[list[tuple[Tensor, Tensor]]]:
    """(m, 2) query and object per image -> one layer of pairs."""
    return [[(own[:, 0].long(), own[:, 1].long()) for own in pairs]]


def corners_of(boxes: list[Tensor]) -> list[Tensor]:
    """cxcywh -> xyxy."""
    return [torch.cat([own[:, :2] - own[:, 2:] / 2, own[:, :2] + own[:, 2:] / 2], 1) for own in boxes]


def listed_sizes(sizes: list[Tensor]) -> list[tuple[int, int]]:
    """(height, width) of every image -> a list of pairs."""
    return [(int(height), int(width)) for height, width in sizes]


def half(number: float) -> float:
    """Of a number."""
    return number / 2


def kept_places(draws: list[Tensor]) -> list[Tensor]:
    """Uniform draws -> 1 at the places that DetKDS keeps."""
    return [(draw <= 0.35).to(draw.dtype) for draw in draws]


def gates_of(fused: dict[str, list[Tensor]]) -> list[Tensor]:
    """Of an op with several outputs."""
    return fused["gates"]


def by_level(fused: dict[str, Tensor]) -> Tensor:
    """Weights (N, L) of an op with several outputs -> (L, N)."""
    return fused["weights"].T


def channels_of(bias: Any) -> int:
    """The bias of a layer -> its output channels."""
    return len(bias)


def lengths(values: list[Tensor]) -> list[int]:
    """Of arrays per level."""
    return [len(value) for value in values]


def filter_rows(weights: list[Tensor], first: list[Tensor], maps: list[Tensor]) -> list[Tensor]:
    """Layers (n, D) of levels and images, levels first, as blocks (N, C, h, h) per level; ``first``: of the first image."""
    channels, levels = maps[0].shape[1], filter_offsets(weights, first)
    side = math.isqrt(levels[0].shape[1] // channels)
    return [level.unflatten(1, (channels, side, side)) for level in levels]


def filter_offsets(values: list[Tensor], first: list[Tensor]) -> list[Tensor]:
    """Values of levels and images, levels first, with all images of a level joined; ``first`` are those of the first image."""
    images = len(values) // len(first)
    return [torch.cat(values[k : k + images]) for k in range(0, len(values), images)]


def doubling(first: float) -> list[int]:
    """The stride of the finest level -> those of five."""
    return [int(first) << level for level in range(5)]


def inverse_each(numbers: Tensor) -> list[float]:
    """Of every number, rounded to what was meant in single precision."""
    return [float(f"{1 / float(number):.6g}") for number in numbers]


def by_level_of(rows: Tensor, maps: list[Tensor]) -> list[Tensor]:
    """(R, ...) of all levels -> per level of these maps, one row per cell."""
    return list(rows.split([m[0, 0].numel() for m in maps]))


def ones_like_cells(maps: list[Tensor]) -> list[Tensor]:
    """1 for every cell of these maps (B, 1, H, W): (B, H*W) per level."""
    return [torch.ones_like(m).flatten(1) for m in maps]


def as_score_maps(levels: list[Tensor], like: list[Tensor]) -> list[Tensor]:
    """(B, H*W) per level -> (B, 1, H, W)."""
    return [t.view_as(m) for t, m in zip(levels, like, strict=True)]


def candidates(assigned: dict[str, list[Tensor]]) -> list[Tensor]:
    """Costs (B, R_l) per level, 0 where none -> numbers of the places of every image that have one."""
    return [row.nonzero().flatten() for row in torch.cat(assigned["costs"], dim=1)]


def of_candidates(assigned: dict[str, list[Tensor]]) -> list[Tensor]:
    """Costs (B, R_l) per level, 0 where none -> those of every image that are not."""
    return [row[row != 0] for row in torch.cat(assigned["costs"], dim=1)]


def split_places(values: Tensor, counts: Tensor) -> list[Tensor]:
    """(B, R, ...) of all levels -> per level."""
    return list(values.split(counts.tolist(), dim=1))


def not_by_image(levels: list[Tensor]) -> Tensor:
    """1 minus :func:`by_image`."""
    return 1 - by_image(levels)


def with_scores_inside(value: Tensor, layers: Tensor, scores: list[Tensor], weight: Tensor | float = 1.0) -> Tensor:
    """A sum of ``s (1 - GIoU)`` over all layers as one of ``1 - s GIoU``."""
    every = torch.cat(scores)
    return value + weight * len(layers) * (1 - every).sum() / max(len(every), 1)


def token_grid(tokens: Tensor, grid: Tensor) -> Tensor:
    """(B, N, D) tokens row by row -> (B, D, h, w)."""
    return tokens.transpose(1, 2).unflatten(2, [int(side) for side in grid])
