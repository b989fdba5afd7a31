"""Which form a detector's family has."""

from __future__ import annotations

from kdflow.errors import UsageError
from kdflow.ports import Detector
from kdflow.using.export.inside.candidates import Size
from kdflow.using.export.inside.dense import DenseCandidates
from kdflow.using.export.inside.queries import SetCandidates
from kdflow.using.export.inside.regions import RegionCandidates

Candidates = SetCandidates | DenseCandidates | RegionCandidates


def candidates(detector: Detector, size: Size, canvas: Size) -> Candidates:
    """The detector at a fixed size.

    Args:
        detector: In evaluation mode, wired as its library has it.
        size: (height, width) of resized pictures.
        canvas: The same with their padding.

    Raises:
        UsageError: Its family has no such form; the message says why.
    """
    if detector.library == "transformers":
        return SetCandidates(detector, size, canvas)
    if "normalize" not in detector.stages:
        raise UsageError(
            f"{detector.name}: it brings a forward pass of its own, which kdflow cannot take apart. Next: load student.pt into "
            "your module and use torch.onnx.export"
        )
    if detector.family == "two-stage":
        return RegionCandidates(detector, size, canvas)
    return DenseCandidates(detector, size, canvas)
