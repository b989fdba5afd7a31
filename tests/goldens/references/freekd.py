"""FreeKD."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad, smooth_l1_loss

from tests.goldens.references import Case, Draw, add, convolve, group


def cases() -> Iterator[Draw]:
    for seed, batch, ours, theirs, tokens, sizes, boxes in (
        (0, 2, 4, 6, 3, [(7, 5), (4, 6)], 0),
        (1, 1, 5, 5, 2, [(2, 2), (1, 1), (3, 1)], 0),
        (2, 3, 6, 4, 4, [(12, 10)], 1),
        (3, 3, 2, 2, 1, [(8, 8), (5, 5)], 1),
    ):
        draw = Draw(seed).set(num_tokens=tokens, loss_weight=2.0, mse_weight=3.0, box_weight=0.5 * boxes)
        draw.maps("student.neck", batch, ours, sizes).maps("teacher.neck", batch, theirs, sizes)
        for level in range(len(sizes)):
            draw.convolution(f"param.align.{level}", theirs, ours).normal(f"param.{level}.tokens", 4, tokens, theirs)
        if boxes:
            draw.maps("student.head.box", batch, 8, sizes).maps("teacher.head.box", batch, 8, sizes)
        yield draw


def reference(case: Case) -> dict[str, Tensor]:
    bands, squares, found = [], [], {}
    for level, (ours, theirs) in enumerate(zip(group(case, "student.neck"), group(case, "teacher.neck"), strict=True)):
        ours, tokens = convolve(case, f"param.align.{level}", ours), case[f"param.{level}.tokens"]
        squares.append((ours - theirs).square().mean())
        level_losses, masks, low, their_low, details = [], [], ours, theirs, []
        for depth in range(3):
            low, detail = split(low)
            their_low, wanted = split(their_low)
            mask = torch.einsum("tc,bchw->bthw", tokens[depth + 1], wanted.sum(2)).sigmoid()
            gap = (detail - wanted).abs()
            level_losses.append((mask[:, :, None, None] * gap[:, None]).mean())
            found[f"mask.{level}.{depth}"] = mask
            masks.append(mask)
            details.append(wanted * mask.sum(1)[:, None, None])
            if level == 0:
                found[f"teacher.high.0.{depth}"] = wanted
        lowest = torch.einsum("tc,bchw->bthw", tokens[0], their_low).sigmoid()
        if level == 0:
            found["teacher.low.0"] = their_low
        rebuilt = their_low * lowest.sum(1, keepdim=True)
        for depth in (2, 1, 0):
            rebuilt = join(rebuilt[..., : details[depth].shape[3], : details[depth].shape[4]], details[depth])
        found[f"stage1.feature.{level}"] = rebuilt
        found[f"stage1.dice.{level}"] = add([overlap(mask) for mask in [lowest, *masks]])
        bands.append(add(level_losses))
    band, mse = case["hp.loss_weight"] * add(bands), case["hp.mse_weight"] * add(squares)
    found |= {"band": band, "band_per_level": torch.stack(bands), "mse": mse, "total": band + mse}
    if "student.head.box.0" in case:
        pairs = zip(group(case, "student.head.box"), group(case, "teacher.head.box"), strict=True)
        found["box"] = case["hp.box_weight"] * add([smooth_l1_loss(ours, theirs) for ours, theirs in pairs])
        found["total"] = found["total"] + found["box"]
    return found


def split(features: Tensor) -> tuple[Tensor, Tensor]:
    even = pad(features, (0, features.shape[3] % 2, 0, features.shape[2] % 2))
    a, b, c, d = even[..., ::2, ::2], even[..., ::2, 1::2], even[..., 1::2, ::2], even[..., 1::2, 1::2]
    return (a + b + c + d) / 2, torch.stack([a + b - c - d, a - b + c - d, a - b - c + d], 2) / 2


def join(low: Tensor, details: Tensor) -> Tensor:
    rows, columns, diagonal = details.unbind(2)
    result = low.new_zeros(*low.shape[:2], 2 * low.shape[2], 2 * low.shape[3])
    result[..., ::2, ::2] = (low + rows + columns + diagonal) / 2
    result[..., ::2, 1::2] = (low + rows - columns - diagonal) / 2
    result[..., 1::2, ::2] = (low - rows + columns - diagonal) / 2
    result[..., 1::2, 1::2] = (low - rows - columns + diagonal) / 2
    return result


def overlap(masks: Tensor) -> Tensor:
    flat = masks.flatten(2).unbind(1)
    pairs = [
        2 * (a * b).sum(1) / ((a * a).sum(1) + (b * b).sum(1))
        for i, a in enumerate(flat)
        for j, b in enumerate(flat)
        if i != j
    ]
    return torch.cat(pairs).mean() if pairs else masks.new_zeros(())
