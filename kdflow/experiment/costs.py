"""What a student costs, known before it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from kdflow.experiment.build import canvas_of
from kdflow.experiment.setup import Setting
from kdflow.graph.cost import prediction_flops


def student_costs(setting: Setting, names: Iterable[str]) -> dict[str, float]:
    """Cost -> number, of those among ``names`` that follow from the student alone (``flops`` and ``parameters``)."""
    return {name: MEASURES[name](setting) for name in names if name in MEASURES}


def _flops(setting: Setting) -> float:
    """Operations of the predictions for one image of the bench's size, padded as this student needs it."""
    student = setting.detectors["student"]
    return float(prediction_flops(student, canvas_of(setting.bench, {"student": student}), setting.method))


def _parameters(setting: Setting) -> float:
    return float(sum(parameter.numel() for parameter in setting.detectors["student"].model.parameters()))


MEASURES: Mapping[str, Callable[[Setting], float]] = {"flops": _flops, "parameters": _parameters}
"""Costs of :data:`kdflow.spec.metrics.COSTS` that need no run."""
