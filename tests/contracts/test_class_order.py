"""A detector whose classes stand in another order gives the same values once every port is translated as it declares."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdflow.detectors.hf_build import class_rows
from kdflow.ops.taps.classes import class_detections, class_labels, class_scores
from kdflow.ports import DETECTORS, Batch, ClassRows, Detector, Port
from tests.contracts.tiny_detectors import batch_for, detector_of
from tests.detectors.staging import run_stages

each = pytest.mark.parametrize("name", DETECTORS.names())


def rows_of(detector: Detector) -> dict[str, ClassRows]:
    """Predictor -> order of its rows; those of the transformers library are found by their shapes instead."""
    if detector.class_rows or detector.library == "transformers":
        return dict(detector.class_rows)
    sizes = {path: len(detector.model.get_submodule(path).weight) for path in detector.predictors(detector)}
    return {path: ClassRows(groups=size // len(detector.classes)) for path, size in sizes.items()}


def distinct(detector: Detector) -> Detector:
    """The detector with weights that tell its classes apart, which fresh ones hardly do."""
    torch.manual_seed(4)
    for predictor in rows_of(detector):
        for parameter in detector.model.get_submodule(predictor).parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return detector


def shuffled(detector: Detector) -> tuple[Detector, tuple[int, ...]]:
    """The same detector with its classes in another order; entry i of the order is where class i went."""
    count = len(detector.classes)
    order = [*range(1, count), 0]  # class j of the shuffled detector is class order[j] of the original
    state = dict(detector.model.state_dict())
    if detector.library == "transformers":
        for key in class_rows(detector.model):
            state[key] = state[key][torch.tensor([*order, *range(count, len(state[key]))])]
    for predictor, rows in rows_of(detector).items():
        kept = [0, *(i + 1 for i in order)] if rows.background else order
        for key in (f"{predictor}.weight", f"{predictor}.bias"):
            known = rows.groups * len(kept) * rows.block  # behind them a background, where it is the last
            blocks = state[key][:known].unflatten(0, (rows.groups, len(kept), rows.block))
            state[key] = torch.cat([blocks[:, torch.tensor(kept)].flatten(0, 2), state[key][known:]])
    model = copy.deepcopy(detector)
    model.model.load_state_dict(state, strict=True)
    changed = replace(model, classes=tuple(detector.classes[i] for i in order))
    return changed, tuple(changed.classes.index(one) for one in detector.classes)


def translated(value: Any, port: Port, columns: tuple[int, ...]) -> Any:
    """A value of the shuffled detector in the original's order."""
    if port.classes is None:
        return value
    back = tuple(columns.index(i) for i in range(len(columns)))
    if port.classes.holds == "detections":
        return class_detections(value, back)

    def one(tensor: Tensor) -> Tensor:
        if port.classes is not None and port.classes.holds == "labels":
            return class_labels(tensor, back)
        return class_scores(tensor, columns, port.classes.block if port.classes else 1)

    return [one(v) for v in value] if isinstance(value, (list, tuple)) else one(value)


@each
def test_every_port_says_which_of_its_numbers_are_classes(name: str) -> None:
    original, batch = distinct(detector_of(name)), batch_for(name)
    if not original.detects:
        assert not any(port.classes for port in original.ports.values())
        return
    other, columns = shuffled(original)
    labels = [torch.tensor(columns)[own] for own in batch.labels]
    turned = Batch(batch.images, batch.image_sizes, batch.boxes, labels)
    for detector in (original, other):
        detector.model.eval()
    with torch.no_grad():
        ours, theirs = (run_stages(d, b, seed=3) for d, b in ((original, batch), (other, turned)))
    moved = []
    for port, spec in original.ports.items():
        if spec.kind.opaque and not spec.classes:
            continue
        value = translated(theirs[port], spec, columns)
        torch.testing.assert_close(plain(value), plain(ours[port]), rtol=1e-4, atol=1e-5, msg=lambda m, p=port: f"{p}: {m}")
        if spec.classes is not None and not same(theirs[port], ours[port]):
            moved.append(port)
    told = [port for port, spec in original.ports.items() if spec.classes is not None and spec.classes.holds == "scores"]
    assert told
    assert set(told) <= set(moved), "these ports would look alike without a translation, so nothing was tested"


def outputs_inside(detector: Detector, batch: Batch) -> dict[str, list[Tensor]]:
    """Module -> the tensors that it gives in a pass of all stages."""
    found: dict[str, list[Tensor]] = {}

    def keep(path: str) -> Any:
        return lambda _module, _inputs, output: found.setdefault(path, []).append(output)

    hooks = [module.register_forward_hook(keep(path)) for path, module in detector.model.named_modules()]
    with torch.no_grad():
        run_stages(detector, batch, seed=3)
    for hook in hooks:
        hook.remove()
    return {path: outputs for path, outputs in found.items() if all(isinstance(o, Tensor) for o in outputs)}


@each
def test_modules_that_give_numbers_per_class_are_known(name: str) -> None:
    original, batch = distinct(detector_of(name)), batch_for(name)
    if not original.detects:
        assert not original.class_modules()
        return
    other, columns = shuffled(original)
    turned = Batch(batch.images, batch.image_sizes, batch.boxes, [torch.tensor(columns)[own] for own in batch.labels])
    for detector in (original, other):
        detector.model.eval()
    ours, theirs = outputs_inside(original, batch), outputs_inside(other, turned)
    known = set(original.class_modules())
    moved = {path for path, outputs in ours.items() if not close(outputs, theirs[path])}
    told = {path for path in ours if not known.isdisjoint(original.model.get_submodule(path).modules())}
    assert moved
    assert moved <= told
    leaves = {path for path in told if original.model.get_submodule(path) in known}
    assert leaves <= moved, "refused without need"


def close(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(one, other))


def plain(value: Any) -> Any:
    """Best detections alone: equal scores may stand in another order."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [one["labels"][one["scores"].argmax()] for one in value if len(one["scores"])]
    return value


def same(value: Any, other: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(same(a, b) for a, b in zip(value, other))
    if isinstance(value, dict):
        return all(same(value[key], other[key]) for key in value)
    return value.shape == other.shape and torch.allclose(value, other)
