"""What trials of a search may be judged by: measures of the detections, and costs."""

from __future__ import annotations

from collections.abc import Iterable

from kdflow.errors import choices

QUALITY = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "voc_ap50", "voc07_ap50")
"""On the validation split; more is better."""
COSTS = {
    "flops": "floating-point operations of the student's predictions for one image of the bench's size",
    "parameters": "parameters of the student",
    "step_ms": "milliseconds of a training step",
    "added_parameters": "parameters of the method's own modules, which the exported student does not have",
}
"""Of which less is better -> what they are; they do not come from evaluations."""
METRICS = (*QUALITY, *COSTS)


def plain_name(metric: str) -> str:
    """``val/AP`` and ``cost/flops`` are ``AP`` and ``flops``, as records and listings write them."""
    group, slash, name = metric.partition("/")
    known: Iterable[str] = {"val": QUALITY, "cost": COSTS}.get(group, ()) if slash else ()
    return name if name in known else metric


def metric_problem(metric: str) -> str:
    """Why there is no such metric, in words; empty for one that there is."""
    return "" if metric in METRICS else f'no metric "{metric}".{choices(metric.rpartition("/")[2], METRICS)}'


def recorded_name(metric: str) -> str:
    """The name under which a store keeps it: ``val/AP``, ``cost/flops``."""
    return f"cost/{metric}" if metric in COSTS else f"val/{metric}"
