"""FitNet's hint, by 1x1 convolutions or by regressors."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.nn.functional import conv_transpose2d, relu

from tests.goldens.references import Case, Draw, add, batch_norm, convolve, group

DIFFERENTIATED = {"grad": "hint"}


def cases() -> Iterator[Draw]:
    for seed, batch, ours, theirs, sizes in ((0, 1, 3, 5, [(5, 7)]), (1, 3, 4, 2, [(6, 4), (3, 2), (2, 1), (1, 1)])):
        draw = Draw(seed).set(weight=0.3)
        draw.maps("student.neck", batch, ours, sizes).maps("teacher.neck", batch, theirs, sizes)
        for level in range(len(sizes)):
            draw.convolution(f"param.adapt.{level}", theirs, ours)
        yield draw
    for seed, (height, width), (high, wide), kernel, stride, padding, transposed in (
        (2, (10, 14), (5, 7), 3, 2, 1, 0),
        (3, (3, 4), (6, 8), 4, 2, 1, 1),
        (4, (7, 5), (7, 5), 1, 1, 0, 0),
    ):
        draw = Draw(seed).normal("student.feat", 3, 4, height, width).normal("teacher.feat", 3, 2, high, wide)
        geometry = {"kernel": (kernel,) * 2, "stride": (stride,) * 2, "padding": (padding,) * 2}
        draw.set(**geometry, transposed=transposed, relu=1, bn_eps=1e-5)
        draw.convolution("param.adapt.conv", *((4, 2) if transposed else (2, 4)), kernel)
        yield (
            draw.normal("param.adapt.conv.bias", 2).normal("param.adapt.bn.weight", 2).normal("param.adapt.bn.bias", 2)
        )


def reference(case: Case) -> dict[str, Tensor]:
    if "student.feat" in case:
        return regressed(case)
    pairs = zip(group(case, "student.neck"), group(case, "teacher.neck"), strict=True)
    errors = [convolve(case, f"param.adapt.{level}", ours) - theirs for level, (ours, theirs) in enumerate(pairs)]
    units = [
        unit(convolve(case, f"param.adapt.{level}", ours)) - unit(theirs)
        for level, (ours, theirs) in enumerate(
            zip(group(case, "student.neck"), group(case, "teacher.neck"), strict=True)
        )
    ]
    return {
        "hint": case["hp.weight"] * add([error.square().mean() for error in errors]),
        "variant_batch_mean": add([error.square().sum() / len(error) for error in errors]),
        "variant_normalized_batch_mean": add([error.square().sum() / len(error) for error in units]),
    }


def unit(features: Tensor) -> Tensor:
    return features / features.flatten(1).norm(dim=1)[:, None, None, None]


def regressed(case: Case) -> dict[str, Tensor]:
    geometry = {name: case[f"hp.{name}"].tolist() for name in ("stride", "padding")}
    weight, bias = case["param.adapt.conv.weight"], case["param.adapt.conv.bias"]
    transposed = bool(case["hp.transposed"])
    features = case["student.feat"]
    if transposed:
        result = conv_transpose2d(features, weight, bias, **geometry)
    else:
        result = convolve(case, "param.adapt.conv", features, **geometry)
    return {"hint": (relu(batch_norm(case, "param.adapt.bn", result)) - case["teacher.feat"]).square().mean()}
