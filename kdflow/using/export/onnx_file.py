"""ONNX: pictures of 8 bits in, boxes in their pixels out; resize, padding, normalisation, suppression and threshold inside."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextlib import suppress as suppressed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdflow.errors import MissingPackageError, UsageError
from kdflow.escape import printable
from kdflow.ports import Detector
from kdflow.student.pictures import Pictures
from kdflow.using.export.inside.candidates import Suppression
from kdflow.using.export.inside.family import candidates
from kdflow.using.export.inside.suppress import TRANSLATIONS, kept
from kdflow.using.export.resize import resize
from kdflow.using.finder import Finder

INPUT, OUTPUTS = "pictures", ("boxes", "scores", "labels", "picture")
OPSET = 18
MODEL, FACTS = "model.onnx", "kdflow."


class Whole(nn.Module):
    """From (N, 3, H, W) 8-bit pictures to detections: boxes (M, 4), scores (M,), labels (M,), number of the picture (M,)."""

    def __init__(self, detector: Detector, pictures: Pictures, threshold: float, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.target = pictures.target(*(size or (pictures.size, pictures.size)))
        canvas = tuple(-(-side // pictures.divisor) * pictures.divisor for side in self.target)
        self.find = candidates(detector, self.target, (canvas[0], canvas[1]))
        self.threshold = threshold

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Best first within a picture."""
        seen = (resize(pictures, *self.target) / 255).to(torch.float32)
        boxes, scores, labels = self.find(seen)
        rule: Suppression = self.find.suppression
        least = max(rule.score, self.threshold)
        if rule.iou is None:
            rows = torch.nonzero(scores > least)
            picture, chosen = rows[:, 0], rows[:, 1]
        else:
            picture, chosen = kept(boxes, scores, labels, rule.iou, least, rule.limit)
        found = boxes[picture, chosen].to(torch.float64)
        height, width = _side(pictures[0, 0, :, :1]), _side(pictures[0, 0, :1, :].T)
        original = torch.cat([width, height]).repeat(2)
        resized = torch.tensor([self.target[1], self.target[0]] * 2, dtype=torch.float64)
        found = (found * (original / resized)).clamp(min=0).minimum(original)
        return found.to(torch.float32), scores[picture, chosen], labels[picture, chosen], picture


def _side(column: Tensor) -> Tensor:
    """(1,) length of an (L, 1) tensor as a number of the graph."""
    return torch.ones_like(column, dtype=torch.float64).sum().reshape(1)


@dataclass(frozen=True)
class OnnxFile:
    """What was written.

    Attributes:
        file: The model.
        batch: Pictures that it takes at once: any number, or 1.
        size: (height, width) of its pictures; None takes any.
    """

    file: Path
    batch: str
    size: tuple[int, int] | None


def write_onnx(
    file: Path, detector: Detector, pictures: Pictures, threshold: float, size: tuple[int, int] | None = None
) -> OnnxFile:
    """Write a detector as ONNX.

    Args:
        file: Where to.
        detector: In evaluation mode, on the CPU.
        pictures: How the evaluation treats pictures.
        threshold: Detections have more than this score.
        size: (height, width) of the pictures, where the evaluation keeps their aspect ratio.

    Raises:
        UsageError: The family has no ONNX form, or the exporter refuses it.
        MissingPackageError: onnx or onnxscript is not installed.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingPackageError("ONNX files need the extra export: pip install kdflow[export]") from error
    if size is None and not pictures.fixed:
        raise UsageError(
            "the evaluation keeps the aspect ratio of a picture, so an ONNX file has to know the size of the pictures that it "
            "will see. Next: --picture HEIGHTxWIDTH"
        )
    whole = Whole(detector, pictures, threshold, size).eval()
    example = torch.randint(
        0, 256, (2, 3, *(size or (72, 88))), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    free = (
        {}
        if size
        else {2: torch.export.Dim("height", min=8, max=16384), 3: torch.export.Dim("width", min=8, max=16384)}
    )
    program, batch = _any_batch(whole, example, free)
    facts = {
        "classes": json.dumps(detector.classes),
        "threshold": str(threshold),
        **{k: str(v) for k, v in vars(pictures).items()},
    }
    program.model.metadata_props.update({f"{FACTS}{key}": value for key, value in facts.items()})
    file.parent.mkdir(parents=True, exist_ok=True)
    program.save(str(file), external_data=False)
    return OnnxFile(file, batch, size)


def _any_batch(whole: Whole, example: Tensor, free: Mapping[int, Any]) -> tuple[Any, str]:
    """The program, and how many pictures it takes at once: any number, or one where the family's code fixes their number."""
    with suppressed(Exception):  # the exporter is foreign code, and raises what it likes
        program = _exported(whole, example, {0: torch.export.Dim("count", min=1, max=4096), **free})
        if not _fixed(program, (0, *free)):
            return program, "any"
    try:
        program = _exported(whole, example[:1], free)
    except Exception as error:
        raise UsageError(f"this family is refused by torch's exporter: {_reason(error)}") from error
    if fixed := _fixed(program, tuple(free)):
        raise UsageError(f"this family's code fixes the size of the pictures (axes {fixed}), so it has no ONNX form")
    return program, "1"


def _fixed(program: Any, axes: Sequence[int]) -> list[int]:
    """Axes of the input that became numbers, of those that were to stay free."""
    shape = program.model.graph.inputs[0].shape
    return [axis for axis in axes if isinstance(shape[axis], int)]


def _exported(whole: nn.Module, example: Tensor, free: Mapping[int, Any]) -> Any:
    with torch.no_grad(), _quiet(), _unchecked(), _lengths(whole):
        return torch.onnx.export(
            whole,
            (example,),
            None,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=(dict(free) or None,),
            custom_translation_table=TRANSLATIONS,
            verbose=False,
            optimize=False,  # its rewriting of clamps after a sigmoid breaks Deformable DETR; runtimes optimise by themselves
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's remarks about its own work are left out."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


@contextmanager
def _unchecked() -> Iterator[None]:
    """Without transformers' checks of values, which ONNX has no form for; the variable is the library's own."""
    name = "TRANSFORMERS_DISABLE_TORCH_CHECK"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


@contextmanager
def _lengths(whole: nn.Module) -> Iterator[None]:
    """In the library's code the length of a tensor stays free; Python's own ``len`` makes the number of pictures a constant."""
    names = {type(module).__module__ for module in whole.modules()}
    files = [vars(sys.modules[name]) for name in names if name.startswith("transformers.")]
    for file in files:
        file["len"] = _length  # found before the built-in one
    try:
        yield
    finally:
        for file in files:
            del file["len"]


def _length(value: Any) -> Any:
    return value.shape[0] if isinstance(value, Tensor) else len(value)


def _reason(error: BaseException) -> str:
    """The first line of what lies at the bottom of it."""
    while (deeper := error.__cause__) is not None:
        error = deeper
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(lines[0])[:300] if lines else type(error).__name__


def onnx_finder(file: Path) -> Finder:
    """A file of :func:`write_onnx` in onnxruntime, on the CPU.

    Raises:
        UsageError: It is no such file.
        MissingPackageError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError("using ONNX files needs the extra export: pip install kdflow[export]") from error
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; what it cannot fold beforehand is no one's concern
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no class of their own
        raise UsageError(f"{file} cannot be opened as an ONNX model: {_reason(error)}") from error
    kept: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
    if f"{FACTS}classes" not in kept:
        raise UsageError(f"{file} was not written by kdflow export: it does not name its classes, nor its way with pictures")
    fixed = [side if isinstance(side, int) else None for side in session.get_inputs()[0].shape[2:]]

    def look(image: Tensor) -> dict[str, Tensor]:
        sides = list(image.shape[-2:])
        if any(wanted not in (None, side) for wanted, side in zip(fixed, sides)):
            raise UsageError(
                f"{file} takes pictures of {fixed[0]} x {fixed[1]} pixels, not {sides[0]} x {sides[1]}: it was exported for "
                "one size. Next: export it again with another --picture"
            )
        found: Sequence[np.ndarray] = session.run(list(OUTPUTS), {INPUT: image[None].numpy()})
        return {name: torch.from_numpy(values) for name, values in zip(OUTPUTS, found) if name != "picture"}

    return Finder(tuple(json.loads(kept[f"{FACTS}classes"])), kept.get(f"{FACTS}upright") == "True", look)
