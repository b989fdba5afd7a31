"""DDF."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tests.goldens.references import Case, Draw, divergence, group, overlaps


def cases() -> Iterator[Draw]:
    for seed, layers, counts, ours, theirs, classes, bins, scale in (
        (0, 3, [3, 0, 1], 8, 8, 5, 8, 4.0),
        (1, 2, [1, 2], 5, 9, 5, 6, 8.0),
        (2, 1, [0, 0], 7, 7, 4, 12, 4.0),
        (3, 2, [2], 2, 2, 1, 8, 4.0),
    ):
        draw = Draw(seed).set(reg_max=bins, temperature=4.0, reg_scale=scale, up=0.5, weight_ddf=1.2)
        batch = len(counts)
        draw.normal("student.corners", layers, batch, ours, 4 * (bins + 1))
        draw.normal("teacher.corners", batch, theirs, 4 * (bins + 1)).normal("teacher.logits", batch, theirs, classes)
        draw.put("student.reference", boxes(draw, batch, ours))
        draw.put("pair.teacher_index", np.stack([draw.random.permutation(theirs)[:ours] for _ in counts]))
        for image, count in enumerate(counts):
            draw.put(f"boxes.{image}", boxes(draw, count))
            queries = draw.random.permutation(ours)[: min(ours, 2 * count)]  # all of them in the last case
            objects = draw.random.integers(max(count, 1), size=len(queries))
            draw.put(f"match.{image}", np.stack([queries, objects], 1))
        yield draw


def boxes(draw: Draw, *shape: int) -> np.ndarray:
    centers, sides = draw.random.uniform(0.3, 0.7, (*shape, 2)), draw.random.uniform(0.1, 0.5, (*shape, 2))
    return np.concatenate([centers, sides], -1).astype(np.float32)


def reference(case: Case) -> dict[str, Tensor]:
    index = case["pair.teacher_index"].long()
    theirs, logits = (
        torch.stack([own[row] for own, row in zip(case[f"teacher.{name}"], index, strict=True)])
        for name in ("corners", "logits")
    )
    losses, decoded = [], []
    for layer in case["student.corners"]:
        places = decode(case, layer)
        weight, matched = logits.sigmoid().amax(-1), torch.zeros(index.shape, dtype=torch.bool)
        for image, pairs in enumerate(group(case, "match")):
            for query, number in pairs.tolist():
                own = [corners(t) for t in (places[image, query][None], case[f"boxes.{image}"][number][None])]
                weight[image, query], matched[image, query] = overlaps(*own)[0, 0].detach(), True
        edges = divergence(theirs.unflatten(-1, (4, -1)), layer.unflatten(-1, (4, -1)), case["hp.temperature"])
        values = weight[..., None] * edges
        groups = [values[chosen] for chosen in (matched, ~matched) if chosen.any()]
        roots = [part.numel() ** 0.5 for part in groups]
        losses.append(sum(root * part.mean() for root, part in zip(roots, groups, strict=True)) / sum(roots))
        decoded.append(places.detach())
    total = case["hp.weight_ddf"] * torch.stack(losses).sum()
    return {"ddf_per_layer": torch.stack(losses), "total": total, "student.boxes": torch.stack(decoded)}


def decode(case: Case, layer: Tensor) -> Tensor:
    count, bound, scale = int(case["hp.reg_max"]), float(case["hp.up"] * case["hp.reg_scale"]), case["hp.reg_scale"]
    q = (bound + 1) ** (2 / (count - 2))
    inner = [(q**k - 1) for k in range(count // 2)]
    bins = torch.tensor([-2 * bound] + [-v for v in inner[:0:-1]] + inner + [2 * bound]).double()
    left, top, right, bottom = (layer.unflatten(-1, (4, -1)).softmax(-1) @ bins).unbind(-1)
    x, y, width, height = case["student.reference"].unbind(-1)
    x0, x1 = x - (scale / 2 + left) * width / scale, x + (scale / 2 + right) * width / scale
    y0, y1 = y - (scale / 2 + top) * height / scale, y + (scale / 2 + bottom) * height / scale
    return torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], -1)


def corners(box: Tensor) -> Tensor:
    return torch.cat([box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2], 1)
