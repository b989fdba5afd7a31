"""The attention and non-local terms of TAED's predecessor code."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from tests.goldens.references import Case, Draw, add, batch_norm, convolve, group, project


def cases() -> Iterator[Draw]:
    for seed, batch, width, sizes, pools, channel_mask in (
        (0, 1, 4, [(5, 7)], [1], 0),
        (1, 3, 2, [(6, 4), (3, 3)], [3, 2], 1),
        (2, 3, 6, [(8, 9), (4, 4), (2, 2)], [4, 2, 1], 0),
    ):
        draw = Draw(seed).set(
            temperature=0.6,
            use_channel_mask=channel_mask,
            pool=pools,
            inter_channels=[max(width // 2, 1)] * len(sizes),
            weight_feature=0.3,
            weight_channel=0.5,
            weight_spatial=0.2,
            weight_nonlocal=0.7,
        )
        draw.maps("student.neck", batch, width, sizes).maps("teacher.neck", batch, width, sizes)
        for level in range(len(sizes)):
            key, half = f"param.{level}", max(width // 2, 1)
            draw.convolution(f"{key}.feature_adapter", width, width).linear(f"{key}.channel_adapter", width, width)
            draw.convolution(f"{key}.spatial_adapter", 1, 1, 3).convolution(f"{key}.nonlocal_adapter", width, width)
            for side in ("student_nonlocal", "teacher_nonlocal"):
                for layer in ("g", "theta", "phi"):
                    draw.convolution(f"{key}.{side}.{layer}", half, width)
                draw.convolution(f"{key}.{side}.out.conv", width, half)
                draw.normal(f"{key}.{side}.out.bn.weight", width).normal(f"{key}.{side}.out.bn.bias", width)
        yield draw


def reference(case: Case) -> dict[str, Tensor]:
    parts: dict[str, list[Tensor]] = {"feature": [], "channel": [], "spatial": [], "nonlocal": []}
    for level, (ours, theirs) in enumerate(zip(group(case, "student.neck"), group(case, "teacher.neck"), strict=True)):
        key, pool = f"param.{level}", int(case["hp.pool"][level])
        places, channels = masks(case, ours, theirs)
        error = (theirs - convolve(case, f"{key}.feature_adapter", ours)).square() * places
        parts["feature"].append((error * channels if case["hp.use_channel_mask"] else error).sum().sqrt())
        parts["channel"].append(
            (theirs.mean((2, 3)) - project(case, f"{key}.channel_adapter", ours.mean((2, 3)))).norm()
        )
        view = convolve(case, f"{key}.spatial_adapter", ours.mean(1, keepdim=True), padding=1)
        parts["spatial"].append((theirs.mean(1, keepdim=True) - view).norm())
        their_context = nonlocal_block(case, f"{key}.teacher_nonlocal", theirs, pool)
        our_context = convolve(
            case, f"{key}.nonlocal_adapter", nonlocal_block(case, f"{key}.student_nonlocal", ours, pool)
        )
        parts["nonlocal"].append((our_context - their_context).norm())
    sums = {name: add(values) for name, values in parts.items()}
    return {**sums, "total": add([case[f"hp.weight_{name}"] * value for name, value in sums.items()])}


def masks(case: Case, *sides: Tensor) -> tuple[Tensor, Tensor]:
    temperature, places, channels = case["hp.temperature"], [], []
    for features in sides:
        size = features.detach().abs()
        look = (size.mean(1).flatten(1) / temperature).softmax(1)
        places.append(look.view(len(size), 1, *size.shape[2:]) * look.shape[1])
        channels.append((size.mean((2, 3)) / temperature).softmax(1)[..., None, None] * size.shape[1])
    return torch.stack(places).mean(0), torch.stack(channels).mean(0)


def nonlocal_block(case: Case, key: str, features: Tensor, pool: int) -> Tensor:
    g, theta, phi = (convolve(case, f"{key}.{layer}", features) for layer in ("g", "theta", "phi"))
    if pool > 1:
        g, phi = max_pool2d(g, pool), max_pool2d(phi, pool)
    relation = torch.einsum("bcs,bct->bst", theta.flatten(2), phi.flatten(2)) / phi[0, 0].numel()
    result = torch.einsum("bst,bct->bcs", relation, g.flatten(2)).view_as(theta)
    return features + batch_norm(case, f"{key}.out.bn", convolve(case, f"{key}.out.conv", result))
