"""Weights into a detector: a file, or a weight name of torchvision; one message says what does not fit."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FCOS_ResNet50_FPN_Weights
from torchvision.ops import FrozenBatchNorm2d

from kdflow.detectors.weight_files import read_state, without_prefix
from kdflow.errors import UsageError, choices
from kdflow.ports import ClassRows, Detector

BACKGROUND = "__background__"
"""What torchvision calls the category of label 0."""
COCO = tuple(
    name for name in FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"] if name not in (BACKGROUND, "N/A")
)
"""The 80 classes of COCO in the order of their numbers."""
COCO91 = tuple(FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
"""The names behind the 91 numbers of COCO, which go beyond its 80 classes: background first, N/A where a number has no class."""
LISTS = {"coco80": COCO, "coco91": COCO91}
"""Lists of classes by name."""
WITHOUT_EPS = ("FasterRCNN_ResNet50_FPN_Weights.COCO_V1", "RetinaNet_ResNet50_FPN_Weights.COCO_V1")
"""Weights trained when the library's frozen BatchNorm had no epsilon; its own builders set 0 for them too."""


def load_weights(
    detector: Detector, weights: str | Path, rows: str | Sequence[str] | None = None, entry: str | None = None
) -> None:
    """Load weights into ``detector.model``, strictly.

    Args:
        detector: The detector; what names mean is its library's business.
        weights: A state-dict file (``.pth``, ``.pt``, ``.safetensors``, or a checkpoint with one among its entries), or a weight
            name such as ``FasterRCNN_ResNet50_FPN_Weights.COCO_V1``. Of the latter, the predictors' rows are chosen by class
            name, so a COCO model becomes a detector of the classes at hand.
        rows: For a file: the class names behind the rows of its predictors, in their order, or the name of one of
            :data:`LISTS`; those of the classes at hand are chosen. None takes the file as it is.
        entry: For a file with several state dicts: which one, see :func:`kdflow.detectors.weight_files.read_state`.

    Raises:
        UsageError: No such file or name, or the weights do not fit the model.
    """
    file = Path(weights).expanduser()
    if not file.is_file():
        for key, given in (("weights_classes", rows), ("weights_entry", entry)):
            if given is not None:
                raise UsageError(f'{key} is for a file of weights; "{weights}" is none, and what it holds is known')
        detector.load(str(weights))
        return
    state = read_state(file, entry=entry)
    if rows is None:
        _check_order(file, detector.classes)
    else:
        names = LISTS[rows] if isinstance(rows, str) else rows
        own = without_prefix(state, detector.model.state_dict(), str(weights))
        state = rows_by_name(own, detector, names, str(weights))
    fit(detector.model, state, str(weights), detector.classes)


def _check_order(file: Path, classes: Sequence[str]) -> None:
    """A state dict names no classes; the ``student.py`` beside an exported student does. Raises UsageError for another order."""
    trained = _exported_classes(file)
    if trained is not None and trained != tuple(classes) and set(trained) == set(classes):
        raise UsageError(
            f'weights "{file}" were trained for the classes {", ".join(trained)}, in this order (student.py beside them says '
            f"so); here they are {', '.join(classes)}. Next: say classes: [{', '.join(trained)}] where they are a teacher's, "
            "or list the data's classes in this order"
        )


def _exported_classes(file: Path) -> tuple[str, ...] | None:
    """``CLASSES`` of the ``student.py`` beside a ``student.pt``; None where there is none that can be read."""
    script = file.with_name("student.py")
    if file.name != "student.pt" or not script.is_file():
        return None
    try:
        body = ast.parse(script.read_text(encoding="utf-8")).body
        named = [line for line in body if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "CLASSES"]
        found = ast.literal_eval(named[0].value)
    except (OSError, SyntaxError, ValueError, IndexError, RecursionError, MemoryError):
        return None
    return tuple(map(str, found)) if isinstance(found, (tuple, list)) else None


def fit(model: nn.Module, state: Mapping[str, Tensor], source: str, classes: Sequence[str]) -> None:
    """``load_state_dict`` whose failure is one readable message."""
    before = {key: value.shape for key, value in model.state_dict().items()}
    state = without_prefix(state, before, source)
    wrong = [k for k, v in state.items() if k in before and v.shape != before[k]]
    if not wrong:
        try:
            model.load_state_dict(dict(state))
            return
        except RuntimeError as error:
            if (missing := _faults(before, state)) == "":
                raise UsageError(f'weights "{source}": {str(error).splitlines()[-1].strip()}') from error
            raise UsageError(f'weights "{source}" do not fit this model: {missing}') from error
    first = wrong[0]
    shapes = f"{first} is {_shape(state[first].shape)} there and {_shape(before[first])} here"
    others = f", and {len(wrong) - 1} more differ" if len(wrong) > 1 else ""
    raise UsageError(
        f'weights "{source}" do not fit this model: {shapes}{others}. Their options or classes differ from this detector\'s, '
        f"which has {len(classes)} classes ({', '.join(classes[:6])}{', ...' if len(classes) > 6 else ''})"
    )


def _faults(before: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    missing = [k for k in before if k not in state]
    unknown = [k for k in state if k not in before]
    parts = [
        f"{len(keys)} {word} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for keys, word in ((missing, "parameters are missing"), (unknown, "are unknown"))
        if keys
    ]
    return "; ".join(parts)


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))})"


def load_by_name(detector: Detector, name: str) -> None:
    """The loader of torchvision's detectors: a weight name, its predictors' rows chosen by class name."""
    entry = _find(name)
    state = dict(_fetch(entry, name))
    categories: list[str] | None = entry.meta.get("categories")
    if categories is not None:
        state = choose_classes(state, detector.class_rows, categories, detector.classes, name)
    fit(detector.model, state, name, detector.classes)
    # Epsilon is no parameter: what the weights were trained with comes with their name.
    frozen = [m for m in detector.model.modules() if isinstance(m, FrozenBatchNorm2d)]
    for module in frozen if name in WITHOUT_EPS else ():
        module.eps = 0.0


def _find(name: str) -> Any:
    try:
        return torchvision.models.get_weight(name)
    except (ValueError, KeyError, AttributeError):
        known = [
            str(entry)
            for model in torchvision.models.list_models(module=torchvision.models.detection)
            for entry in torchvision.models.get_model_weights(model)
        ]
        raise UsageError(
            f'weights "{name}": no such file, and no weight name of torchvision.{choices(name, known)}'
        ) from None


def _fetch(entry: Any, name: str) -> Mapping[str, Tensor]:
    try:
        return entry.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UsageError(f'weights "{name}" could not be fetched: {error}; give a file instead') from error


def load_from_url(detector: Detector, name: str, url: str, categories: Sequence[str]) -> None:
    """Weights that were released as a file under a name: those at ``model``, their predictors' rows chosen by class name."""
    try:
        file: Any = torch.hub.load_state_dict_from_url(url, map_location="cpu", weights_only=True, progress=False)
    except (OSError, RuntimeError) as error:
        raise UsageError(f'weights "{name}" could not be fetched: {error}; give a file instead') from error
    state = choose_classes(file["model"], detector.class_rows, categories, detector.classes, name)
    fit(detector.model, state, name, detector.classes)


def choose_classes(
    state: Mapping[str, Tensor],
    rows: Mapping[str, ClassRows],
    categories: Sequence[str],
    classes: Sequence[str],
    source: str,
) -> dict[str, Tensor]:
    """The state with only the predictor rows of ``classes``, in their order.

    Args:
        state: State dict of a model trained on ``categories``.
        rows: Predictor -> order of its rows.
        categories: Names behind the rows, in their order; the background's (or an unused) slot is the first, where there is one.
        classes: Names wanted.
        source: Name of the weights, for the message.

    Raises:
        UsageError: A class is not among the categories; both lists are shown.
    """
    absent = [c for c in classes if c not in categories]
    if absent:
        known = [name for name in categories if name != BACKGROUND]
        raise UsageError(
            f'weights "{source}" know no class {", ".join(absent)}. They know: {", ".join(known)}. '
            f"The data has: {', '.join(classes)}"
        )
    chosen = [categories.index(c) for c in classes]
    result = dict(state)
    for predictor, order in rows.items():
        wanted = torch.tensor([0, *chosen] if order.background else chosen)
        for key in (f"{predictor}.weight", f"{predictor}.bias"):
            if key in result:
                blocks = result[key].unflatten(0, (order.groups, len(categories), order.block))
                result[key] = blocks[:, wanted].flatten(0, 2)
    return result


def rows_by_name(state: Mapping[str, Tensor], detector: Detector, names: Sequence[str], source: str) -> dict[str, Tensor]:
    """The state with only the rows of the detector's classes; raises UsageError where names and rows differ in number."""
    if not detector.class_rows:
        raise UsageError(f"weights_classes: {detector.name} does not say which of its rows belong to classes")
    background = any(order.background for order in detector.class_rows.values())
    listed = (BACKGROUND, *names) if background and BACKGROUND not in names else tuple(names)
    for predictor, order in detector.class_rows.items():
        found = state.get(f"{predictor}.bias", state.get(f"{predictor}.weight"))
        if found is not None and len(found) != order.groups * order.block * len(listed):
            count = len(found) / (order.groups * order.block)
            words = f"{predictor} has rows for {count:g} classes there, weights_classes lists {len(listed)}"
            raise UsageError(f'weights "{source}": {words}{" with the background" if background else ""}')
    return choose_classes(state, detector.class_rows, listed, detector.classes, source)


def no_names(detector: Detector, name: str) -> None:
    """The loader of detectors that no name stands for."""
    raise UsageError(f'weights "{name}": there is no such file')
