"""Dense heads with the parameters of a CrossKD case: the detectors' own head modules, without backbone, assignment or losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.retinanet import RetinaNetHead

from kdflow.detectors import dense_stages as dense
from kdflow.detectors.dense_parts import DenseForm, dense_calls, head_outputs, head_stages
from kdflow.detectors.gfl_model import ATSSHead, GFLHead
from kdflow.detectors.point_stages import PointDecode
from kdflow.detectors.retinanet import Predict
from kdflow.graph.given import given_detector
from kdflow.ports import Detector, Stage

Arrays = dict[str, np.ndarray]


def dense_head(arrays: Arrays, dtype: torch.dtype, owner: str) -> Detector:
    """The head whose parameters the case holds: GFL, ATSS or RetinaNet."""
    build = {"gfl_cls": gfl, "atss_cls": atss, "retina_cls": retinanet}
    name = next(n for n in build if f"param.{owner}.{n}.weight" in arrays)
    parameters = {k.split(".", 2)[2]: torch.as_tensor(v) for k, v in arrays.items() if k.startswith(f"param.{owner}.")}
    width = parameters["cls_convs.0.conv.weight"].shape[0]
    model, stages, form = build[name](arrays, parameters, width)
    model.to(dtype)
    calls = {"head": dense_calls(form, ())["head"]}
    return given_detector(name, "dense", (), model=model, stages=stages, calls=calls)


def point_stages(head: Any, form: DenseForm, output: str) -> dict[str, Stage]:
    towers = dense.Towers(dense.Tower(head.cls_convs), dense.Tower(head.reg_convs))
    return {**head_stages(towers, dense.HeadPredict(head), form), "head.decode": decode(PointDecode(head, output), output, form)}


def decode(run: nn.Module, output: str, form: DenseForm) -> Stage:
    boxes = form.port("head.boxes", channels=4, form="xyxy")
    return Stage(run, {"values": f"head.{output}", "priors": "head.priors"}, {"boxes": boxes})


def gfl(arrays: Arrays, parameters: dict[str, Tensor], width: int) -> tuple[nn.Module, dict[str, Stage], DenseForm]:
    classes, bins, strides = int(arrays["hp.num_classes"]), int(arrays["hp.reg_max"]), strides_of(arrays)
    head = GFLHead(width, classes, strides, blocks(parameters), int(arrays["hp.gn_groups"]), 8.0, bins=bins)
    head.load_state_dict(parameters)
    outputs = head_outputs(strides, classes, {"distribution": (4 * (bins + 1), "distribution")})
    form = DenseForm(strides, classes, outputs, width, blocks(parameters))
    return head, point_stages(head, form, "distribution"), form


def atss(arrays: Arrays, parameters: dict[str, Tensor], width: int) -> tuple[nn.Module, dict[str, Stage], DenseForm]:
    classes, strides = int(arrays["hp.num_classes"]), strides_of(arrays)
    head = ATSSHead(width, classes, strides, blocks(parameters), int(arrays["hp.gn_groups"]), 8.0)
    head.load_state_dict(parameters)
    outputs = head_outputs(strides, classes, {"deltas": (4, "deltas"), "centerness": (0, "")})
    form = DenseForm(strides, classes, outputs, width, blocks(parameters))
    return head, {**point_stages(head, form, "deltas"), "head.decode": by_coder(arrays, form)}, form


def retinanet(arrays: Arrays, parameters: dict[str, Tensor], width: int) -> tuple[nn.Module, dict[str, Stage], DenseForm]:
    classes, strides, anchors = int(arrays["hp.num_classes"]), strides_of(arrays), int(arrays["hp.anchors_per_cell"])
    head = RetinaNetHead(width, anchors, classes)
    state = {}
    for key, value in parameters.items():
        branch, _, rest = key.partition(".")
        if branch in ("cls_convs", "reg_convs"):
            block, _, kind = rest.partition(".conv.")
            state[f"{LIBRARY[branch]}.conv.{block}.0.{kind}"] = value
        else:
            state[f"{LIBRARY[branch]}.{rest}"] = value
    head.load_state_dict(state)
    outputs = head_outputs(strides, classes, {"deltas": (4, "deltas")})
    form = DenseForm(strides, classes, outputs, width, blocks(parameters))
    towers = dense.Towers(dense.Tower(head.classification_head.conv), dense.Tower(head.regression_head.conv))
    return head, {**head_stages(towers, Predict(head), form), "head.decode": by_coder(arrays, form)}, form


def by_coder(arrays: Arrays, form: DenseForm) -> Stage:
    return decode(dense.Decode(coder(arrays)), "deltas", form)


def coder(arrays: Arrays) -> Callable[[Tensor, Tensor], Tensor]:
    """torchvision's box coder with mmdetection's bound on how small a box becomes, beside the one on how large."""
    plain = BoxCoder(tuple(float(1 / s) for s in arrays["hp.delta_stds"]))
    least = torch.as_tensor(arrays["hp.delta_stds"][2:]).reciprocal() * -plain.bbox_xform_clip

    def bounded(deltas: Tensor, priors: Tensor) -> Tensor:
        sizes = torch.maximum(deltas[:, 2:], least.to(deltas))
        return plain.decode_single(torch.cat([deltas[:, :2], sizes], dim=1), priors)

    return bounded


LIBRARY = {
    "cls_convs": "classification_head", "reg_convs": "regression_head",
    "retina_cls": "classification_head.cls_logits", "retina_reg": "regression_head.bbox_reg",
}


def strides_of(arrays: Arrays) -> tuple[int, ...]:
    return tuple(int(s) for s in arrays["strides"])


def blocks(parameters: dict[str, Tensor]) -> int:
    return len({key.split(".")[1] for key in parameters if key.startswith("cls_convs.")})
