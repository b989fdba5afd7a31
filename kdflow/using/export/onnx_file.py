"""ONNX: pictures of 8 bits in, boxes in their pixels out; resize, padding, normalisation, suppression and threshold inside."""

from __future__ import annotations

import json
import logging
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
from kdflow.using.export.candidates import Suppression, candidates
from kdflow.using.export.resize import resize
from kdflow.using.finder import Finder

INPUT, OUTPUTS = "pictures", ("boxes", "scores", "labels", "picture")
OPSET = 18


@torch.library.custom_op("kdflow::suppress", mutates_args=())
def suppress(boxes: Tensor, scores: Tensor, iou: float, score: float, limit: int) -> Tensor:
    """Rows (picture, 0, candidate) of the candidates that are kept, best first within a picture.

    Args:
        boxes: (N, C, 4) xyxy; boxes of different classes do not overlap.
        scores: (N, 1, C).
        iou: Overlap above which the worse box is dropped.
        score: Kept ones have more.
        limit: Most kept ones of a picture.
    """
    from torchvision.ops import nms

    rows = []
    for picture, (own, marks) in enumerate(zip(boxes, scores[:, 0])):
        able = torch.where(marks > score)[0]
        kept = able[nms(own[able], marks[able], iou)][:limit]
        rows.append(torch.stack([torch.full_like(kept, picture), torch.zeros_like(kept), kept], 1))
    return torch.cat(rows)


@suppress.register_fake
def _suppress_shape(boxes: Tensor, scores: Tensor, iou: float, score: float, limit: int) -> Tensor:
    del scores, iou, score, limit
    count = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty((count, 3), dtype=torch.int64)


def _suppress_in_onnx(boxes: Any, scores: Any, iou: float, score: float, limit: int) -> Any:
    from onnxscript import opset18 as op

    kept = op.Constant(value_ints=[limit])
    overlap, least = op.Constant(value_floats=[iou]), op.Constant(value_floats=[score])
    return op.NonMaxSuppression(boxes, scores, kept, overlap, least)


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
            apart = boxes + (labels * (boxes.max() + 1)).to(boxes.dtype)[..., None]
            rows = suppress(apart, scores[:, None], rule.iou, least, rule.limit)
            picture, chosen = rows[:, 0], rows[:, 2]
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
    program.model.metadata_props.update({f"kdflow.{key}": value for key, value in facts.items()})
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
    with torch.no_grad(), _quiet():
        return torch.onnx.export(
            whole,
            (example,),
            None,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=(dict(free) or None,),
            custom_translation_table={torch.ops.kdflow.suppress.default: _suppress_in_onnx},
            verbose=False,
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


def _reason(error: BaseException) -> str:
    """The first line of what lies at the bottom of it."""
    while (deeper := error.__cause__) is not None:
        error = deeper
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(lines[0])[:300] if lines else type(error).__name__


def onnx_finder(file: Path, upright: bool) -> Finder:
    """The file in onnxruntime, on the CPU."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError("checking ONNX files needs the extra export: pip install kdflow[export]") from error
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    kept: Mapping[str, str] = session.get_modelmeta().custom_metadata_map

    def look(image: Tensor) -> dict[str, Tensor]:
        found: Sequence[np.ndarray] = session.run(list(OUTPUTS), {INPUT: image[None].numpy()})
        return {name: torch.from_numpy(values) for name, values in zip(OUTPUTS, found) if name != "picture"}

    return Finder(tuple(json.loads(kept["kdflow.classes"])), upright, look)
