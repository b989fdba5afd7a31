"""MasKD."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tests.goldens.references import Case, Draw, add, convolve, group

DIFFERENTIATED = {"grad_before_warmup": "loss_before_warmup", "grad_after_warmup": "loss_after_warmup"}


def cases() -> Iterator[Draw]:
    for seed, batch, width, tokens, sizes, weighted, custom in (
        (0, 3, 4, 1, [(5, 7), (2, 3)], 0, 0),
        (1, 3, 2, 4, [(6, 4), (3, 2), (1, 1)], 1, 0),
        (2, 1, 5, 2, [(4, 9)], 0, 1),
        (3, 2, 3, 3, [(3, 3)], 1, 1),
    ):
        draw = Draw(seed).set(num_tokens=tokens, loss_weight=2.5, weight_mask=weighted, custom_mask=custom)
        draw.maps("student.neck", batch, width, sizes).maps("teacher.neck", batch, width, sizes)
        for level in range(len(sizes)):
            key = f"param.mask_modules.{level}"
            draw.normal(f"{key}.mask_token", tokens, width)
            if weighted:
                draw.convolution(f"{key}.prob.0", width, width, 3).convolution(f"{key}.prob.2", tokens, width)
        yield draw


def reference(case: Case) -> dict[str, Tensor]:
    before, after, found = [], [], {}
    for level, (ours, theirs) in enumerate(zip(group(case, "student.neck"), group(case, "teacher.neck"), strict=True)):
        key = f"param.mask_modules.{level}"
        masks = look(case[f"{key}.mask_token"], theirs)
        weights = None
        blended = torch.einsum("bthw,bchw->btchw", masks, theirs)
        if case["hp.weight_mask"]:
            pooled = convolve(case, f"{key}.prob.0", theirs, padding=1).mean((2, 3), keepdim=True)
            weights = convolve(case, f"{key}.prob.2", pooled).flatten(1).softmax(1)
            blended = blended * weights[..., None, None, None]
            found[f"mask_weight.{level}"] = weights
        found |= {f"teacher_mask.{level}": masks, f"stage1_masked_feature.{level}": blended.sum(1)}
        found[f"stage1_dice.{level}"] = likeness(masks)
        before.append(distance(ours, theirs, masks, weights))
        shared = masks * look(case[f"{key}.mask_token"], ours).detach() if case["hp.custom_mask"] else masks
        after.append(distance(ours, theirs, shared, weights))
    weight = case["hp.loss_weight"]
    return {**found, "loss_before_warmup": weight * add(before), "loss_after_warmup": weight * add(after)}


def look(tokens: Tensor, features: Tensor) -> Tensor:
    return torch.einsum("tc,bchw->bthw", tokens, features).sigmoid()


def distance(ours: Tensor, theirs: Tensor, masks: Tensor, weights: Tensor | None) -> Tensor:
    error = (masks[:, :, None] * (ours - theirs)[:, None]).square().sum((3, 4)) / masks.sum((2, 3))[:, :, None]
    own = error.mean(2)
    return own.mean() if weights is None else (own * weights).sum(1).mean()


def likeness(masks: Tensor) -> Tensor:
    flat = masks.flatten(2)
    pairs = [
        2 * (a * b).sum(1) / ((a * a).sum(1) + (b * b).sum(1))
        for i, a in enumerate(flat.unbind(1))
        for j, b in enumerate(flat.unbind(1))
        if i != j
    ]
    return torch.cat(pairs).mean() if pairs else masks.new_zeros(())
