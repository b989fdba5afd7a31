"""DRKD."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torchvision.ops import roi_align

from tests.goldens.references import Case, Draw, add, batch_norm, convolve, group, project

DIFFERENTIATED = {"grad": "total", "grad_instance_relation": "instance_relation"}


def cases() -> Iterator[Draw]:
    for seed, counts, width, nodes, stride, filtered in (
        (0, [2, 0, 1], 3, [2, 4], 8, 0),
        (1, [3, 1], 2, [3, 2, 5], 4, 1),
        (2, [1], 4, [2, 3], 8, 1),
    ):
        draw = Draw(seed).set(
            weight_pixel=0.3, weight_instance_relation=0.5, weight_instance_feature=0.2, filter=filtered,
            roi_size=3, level0_stride=stride, instance_levels=2, bn_eps=1e-3,
        )
        sizes = [(16 >> level, 8 >> level) for level in range(len(nodes))]
        for side in ("student", "teacher"):
            draw.maps(f"{side}.neck", len(counts), width, sizes)
            for level, count in enumerate(nodes):
                block(draw, f"param.{level}.{side}_glore", width, count)
        for level in range(len(nodes)):
            draw.convolution(f"param.{level}.pixel_adapter", width, width)
        draw.boxes(counts, (16 * stride, 8 * stride))
        for level in range(2):
            instances(draw, level, 9 * width, width, counts if filtered else [])
        yield draw


def block(draw: Draw, key: str, width: int, nodes: int) -> None:
    draw.convolution(f"{key}.to_state", 2 * nodes, width).convolution(f"{key}.to_node", nodes, width)
    draw.normal(f"{key}.graph.node.weight", nodes, nodes, 1).normal(f"{key}.graph.node.bias", nodes)
    draw.normal(f"{key}.graph.state.weight", 2 * nodes, 2 * nodes, 1).convolution(f"{key}.extend", width, 2 * nodes, bias=False)
    draw.normal(f"{key}.bn.weight", width).normal(f"{key}.bn.bias", width)


def instances(draw: Draw, level: int, inputs: int, width: int, counts: list[int]) -> None:
    for side in ("student", "teacher"):
        for layer in ("theta", "phi", "g"):
            draw.linear(f"param.{level}.{side}_relation.{layer}", inputs // 2, inputs)
        draw.linear(f"param.{level}.{side}_relation.W", inputs, inputs // 2)
        for image, count in enumerate(counts):
            draw.linear(f"filter.{level}.{image}.{side}", count, inputs)
    draw.convolution(f"param.{level}.relation_adapter", width, width)
    draw.convolution(f"param.{level}.instance_adapter", width, width)


def reference(case: Case) -> dict[str, Tensor]:
    sides = ("student", "teacher")
    pixels, relations, features = [], [], []
    for level, maps in enumerate(zip(*(group(case, f"{side}.neck") for side in sides), strict=True)):
        ours, theirs = (reasoned(case, f"param.{level}.{side}_glore", m) for side, m in zip(sides, maps, strict=True))
        pixels.append((convolve(case, f"param.{level}.pixel_adapter", ours) - theirs).norm())
        if level > 1:
            continue
        for image, boxes in enumerate(group(case, "gt_boxes")):
            if len(boxes):
                blocks = [pooled(case, m[image : image + 1], boxes, level) for m in maps]
                related = [relate(case, level, image, side, z) for side, z in zip(sides, blocks, strict=True)]
                relations.append((convolve(case, f"param.{level}.relation_adapter", related[0]) - related[1]).norm())
                features.append((convolve(case, f"param.{level}.instance_adapter", blocks[0]) - blocks[1]).norm())
    found = {"pixel": add(pixels), "instance_relation": add(relations), "instance_feature": add(features)}
    return {**found, "total": add([case[f"hp.weight_{name}"] * value for name, value in found.items()])}


def reasoned(case: Case, key: str, features: Tensor) -> Tensor:
    places = convolve(case, f"{key}.to_node", features).flatten(2)
    graph = convolve(case, f"{key}.to_state", features).flatten(2) @ places.transpose(1, 2)
    mixed = (case[f"{key}.graph.node.weight"].squeeze(2) @ graph.transpose(1, 2)).transpose(1, 2)
    mixed = (graph + mixed + case[f"{key}.graph.node.bias"]).relu()
    spread = (case[f"{key}.graph.state.weight"].squeeze(2) @ mixed @ places).unflatten(2, features.shape[2:])
    return features + batch_norm(case, f"{key}.bn", convolve(case, f"{key}.extend", spread), float(case["hp.bn_eps"]))


def pooled(case: Case, features: Tensor, boxes: Tensor, level: int) -> Tensor:
    scale = 1 / (float(case["hp.level0_stride"]) * 2**level)
    return roi_align(features, [boxes.to(features)], int(case["hp.roi_size"]), scale, -1, False)


def relate(case: Case, level: int, image: int, side: str, blocks: Tensor) -> Tensor:
    z, key = blocks.flatten(1), f"param.{level}.{side}_relation"
    table = project(case, f"{key}.theta", z) @ project(case, f"{key}.phi", z).T
    if case["hp.filter"]:
        table = table * project(case, f"filter.{level}.{image}.{side}", z).softmax(1)
    return blocks + project(case, f"{key}.W", table.softmax(1) @ project(case, f"{key}.g", z)).view_as(blocks)
