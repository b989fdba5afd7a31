"""FGD."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, relu

from tests.goldens.references import Case, Draw, add, convolve, group


def cases() -> Iterator[Draw]:
    for seed, counts, ours, theirs, sizes in (
        (0, [0, 0], 4, 4, [(6, 5)]),
        (1, [2, 0, 5], 2, 6, [(7, 9), (3, 4), (1, 2)]),
        (2, [4], 4, 4, [(10, 6), (5, 3)]),
    ):
        draw = Draw(seed).set(temperature=0.7, alpha=1e-3, beta=2e-3, gamma=3e-3, **{"lambda": 1e-4})
        draw.maps("student.neck", len(counts), ours, sizes).maps("teacher.neck", len(counts), theirs, sizes)
        draw.boxes(counts, (80, 70)).put("image_sizes", [(80 - 8 * i, 70 + 4 * i) for i in range(len(counts))])
        for level in range(len(sizes)):
            draw_weights(draw, level, ours, theirs)
        yield draw


def draw_weights(draw: Draw, level: int, ours: int, theirs: int) -> None:
    """Those of a level: the adapter, where widths differ, and a context block for each side."""
    if ours != theirs:
        draw.convolution(f"param.{level}.align", theirs, ours)
    for side in ("student_context", "teacher_context"):
        key, half = f"param.{level}.{side}", theirs // 2
        draw.convolution(f"{key}.key", 1, theirs).convolution(f"{key}.reduce", half, theirs)
        draw.convolution(f"{key}.expand", theirs, half)
        draw.normal(f"{key}.norm.weight", half, 1, 1).normal(f"{key}.norm.bias", half, 1, 1)


def reference(case: Case) -> dict[str, Tensor]:
    parts: dict[str, list[Tensor]] = {"fg": [], "bg": [], "attention": [], "relation": []}
    found = {}
    for level, (ours, theirs) in enumerate(zip(group(case, "student.neck"), group(case, "teacher.neck"), strict=True)):
        ours, batch = convolve(case, f"param.{level}.align", ours), len(ours)
        objects, rest = masks(case, theirs)
        (our_places, our_channels), (places, channels) = (attention(t, case["hp.temperature"]) for t in (ours, theirs))
        error = places * channels * (ours - theirs).square()
        parts["fg"].append((objects[:, None] * error).sum() / batch)
        parts["bg"].append((rest[:, None] * error).sum() / batch)
        parts["attention"].append(((our_places - places).abs().sum() + (our_channels - channels).abs().sum()) / batch)
        contexts = context(case, f"param.{level}.student_context", ours) - context(
            case, f"param.{level}.teacher_context", theirs
        )
        parts["relation"].append(contexts.square().sum() / batch)
        found |= {f"mask_fg.{level}": objects, f"mask_bg.{level}": rest}
    sums = {name: add(values) for name, values in parts.items()}
    weights = {"fg": "alpha", "bg": "beta", "attention": "gamma", "relation": "lambda"}
    return {**found, **sums, "total": add([case[f"hp.{weights[name]}"] * value for name, value in sums.items()])}


def masks(case: Case, like: Tensor) -> tuple[Tensor, Tensor]:
    objects = like.new_zeros(len(like), *like.shape[2:])
    for image, boxes in enumerate(group(case, "gt_boxes")):
        height, width = (int(side) for side in case["image_sizes"][image])
        for box in boxes * like.new_tensor([like.shape[3] / width, like.shape[2] / height] * 2):
            x0, y0, x1, y1 = int(box[0].floor()), int(box[1].floor()), int(box[2].ceil()), int(box[3].ceil())
            inside = objects[image, max(y0, 0) : y1 + 1, max(x0, 0) : x1 + 1]
            inside.clamp_(min=1 / ((y1 + 1 - y0) * (x1 + 1 - x0)))
    rest = (objects == 0).to(like)
    return objects, rest / rest.sum((1, 2), keepdim=True).clamp(min=1)


def attention(features: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    size = features.abs()
    places = (size.mean(1).flatten(1) / temperature).softmax(1).view(len(size), 1, *size.shape[2:])
    channels = (size.mean((2, 3)) / temperature).softmax(1)[..., None, None]
    return places * places[0].numel(), channels * size.shape[1]


def context(case: Case, key: str, features: Tensor) -> Tensor:
    looks = convolve(case, f"{key}.key", features).flatten(2).softmax(2)
    vector = torch.einsum("bcs,bs->bc", features.flatten(2), looks[:, 0])[..., None, None]
    reduced = convolve(case, f"{key}.reduce", vector)
    normed = layer_norm(reduced, reduced.shape[1:], case[f"{key}.norm.weight"], case[f"{key}.norm.bias"])
    return features + convolve(case, f"{key}.expand", relu(normed))
