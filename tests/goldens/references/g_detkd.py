"""G-DetKD."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize, relu

from tests.goldens.references import Case, Draw, convolve, group, overlaps


def cases() -> Iterator[Draw]:
    for seed, counts, levels, width, remembered in ((0, [3, 0, 2], 1, 4, 5), (1, [1], 3, 3, 0), (2, [5, 4], 2, 4, 2)):
        draw = Draw(seed).set(gamma=0.2, iou_filter=0.3, w_f=0.7, w_k=1.3).boxes(counts, (60, 60), key="boxes")
        total = sum(counts)
        for level in range(levels):
            draw.normal(f"student.roi.{level}", total, width, 7, 7)
        draw.normal("teacher.roi", total, width, 7, 7).normal("student.region", total, 6).normal(
            "teacher.region", total, 6
        )
        draw.normal("queue", remembered, 6).convolution("param.adapter", width, width)
        draw.convolution("param.embed.0", 5, width, 3).convolution("param.embed.1", 4, 5, 3)
        draw.arrays["param.tau"] = draw.random.uniform(0.5, 1.5, ()).astype("float32")
        yield draw


def reference(case: Case) -> dict[str, Tensor]:
    blocks = [convolve(case, "param.adapter", one) for one in group(case, "student.roi")]
    key = embed(case, case["teacher.roi"])
    logits = torch.stack([(embed(case, one) * key).sum(1) for one in blocks]) / case["param.tau"]
    weights = logits.softmax(0)
    fused = (weights[..., None, None, None] * torch.stack(blocks)).sum(0)
    sgfi, ckd = (fused - case["teacher.roi"]).square().mean(), contrast(case)
    return {"level_weights": weights, "sgfi": sgfi, "ckd": ckd, "total": case["hp.w_f"] * sgfi + case["hp.w_k"] * ckd}


def embed(case: Case, blocks: Tensor) -> Tensor:
    for layer in ("param.embed.0", "param.embed.1"):
        blocks = relu(convolve(case, layer, blocks, stride=2))
    return blocks.flatten(1)


def contrast(case: Case) -> Tensor:
    ours, theirs = normalize(case["student.region"]), normalize(case["teacher.region"])
    image = [number for number, own in enumerate(group(case, "boxes")) for _ in own]
    boxes = torch.cat(group(case, "boxes"))
    near = overlaps(boxes, boxes) > case["hp.iou_filter"]
    memory = torch.exp(ours @ normalize(case["queue"]).T / case["hp.gamma"]).sum(1)
    losses = []
    for i in range(len(ours)):
        similar = torch.exp(ours[i] @ theirs.T / case["hp.gamma"])
        rivals = [j for j in range(len(ours)) if j != i and not (image[i] == image[j] and near[i, j])]
        losses.append(-torch.log(similar[i] / (similar[i] + similar[rivals].sum() + memory[i])))
    return torch.stack(losses).mean()
