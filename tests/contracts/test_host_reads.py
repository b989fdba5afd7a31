"""How often a training step waits for the device, per family, against a written budget (see ``host_reads``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from kdflow.detectors import hf_decoding, hf_parts
from kdflow.engine import evaluate
from kdflow.graph.compile import compile_method
from kdflow.graph.plan import Plan
from kdflow.ports import DETECTORS, Batch
from kdflow.spec.resolve import parse_method
from tests.contracts.host_reads import HostReads
from tests.contracts.tiny_detectors import NAMES, detector_of
from tests.detectors.library import make_batch

NECK = (
    "kdflow: 1\nmethod: t\nterms:\n"
    "  neck: {loss: loss.squared_error, student: student.neck, teacher: teacher.neck, reduce: sum_of_means}\n"
)


def plan_of(name: str) -> Plan:
    spec = parse_method(NECK, "test.yaml")
    detectors: dict[str, Any] = {"student": detector_of(name, 1), "teacher": detector_of(name, 2)}
    return compile_method(spec.resolve(), spec.document, detectors, canvas=(96, 96))


def batch_of(name: str) -> Batch:
    """Four images, one of them without objects."""
    sizes = [(96, 96), (64, 96), (96, 64), (96, 96)] if DETECTORS.get(name).ragged else [(96, 96)] * 4
    return make_batch((3, 1, 0, 5), sizes)


BUDGET = {
    "rt-detr": 4,  # finite numbers in the encoder, places of denoising queries, costs here, pairs back
    "d-fine": 4,
    "deimv2": 6,  # the pairs of all layers are joined on the host
    "deformable-detr": 4,  # one more for every encoder layer beyond two: the library looks for infinite numbers in each
    "dab-detr": 4,
    "detr": 6,
    "conditional-detr": 6,
    "lw-detr": 2,
    "rf-detr": 2,
    "gfl": 8,
    "atss": 8,
    "retinanet": 8,
    "fcos": 8,
    "ssd": 14,
    "yolox": 1,  # are the boxes of the ground truth boxes?
    "faster-rcnn": 30,
}
"""Family -> reads and uploads of one step on four images: forward and losses of a student with a teacher's neck, and backward."""


@pytest.mark.parametrize("name", NAMES)
def test_a_step_reads_the_host_within_its_budget(name: str) -> None:
    hf_decoding._grid.cache_clear()  # so that what lies on the host is made under the counter
    plan, batch, found = plan_of(name), batch_of(name), HostReads()
    plan.advance(0, 10, 5)
    with found.counted():
        plan(batch).total.backward()  # the libraries fill caches at the first pass
    with found.counted():
        plan(batch).total.backward()
    assert found.count <= BUDGET.get(name, 8), f"{name}: {found.count}\n{found}"
    early = plan.ahead()
    with found.counted():
        fed = early(batch)
    assert found.count == 0, f"{name}: the teacher, one batch ahead, waits\n{found}"
    assert fed.fed.keys() >= {"teacher.neck"}
    assert torch.isfinite(plan(fed).total)


@pytest.mark.parametrize("name", ["faster-rcnn", "detr", "rt-detr"])
def test_an_evaluation_waits_once_for_each_batch(name: str) -> None:
    hf_decoding._grid.cache_clear()
    detector, batch, found = detector_of(name, 1), batch_of(name), HostReads()
    batch.image_ids, batch.original_sizes = list(range(4)), list(batch.image_sizes)
    for _ in range(2):
        with found.counted(), torch.no_grad():
            evaluate._detect(detector, [batch, batch], range(len(detector.classes)), torch.device("cpu"))
    own = {place: times for (_, place), times in found.places.items() if place.startswith("kdflow/engine")}
    assert list(own.values()) == [2], str(found)
    if name != "faster-rcnn":  # there the library chooses boxes by non-maximum suppression, image by image
        assert found.count <= 2 * 4, f"the result, the sizes, and is the mask needed?\n{found}"


def counted(work: Callable[[torch.Tensor], Any]) -> int:
    found, values = HostReads(), torch.arange(6.0)
    with found.counted():
        work(values)
    return found.count


@pytest.mark.parametrize(
    ("work", "times"),
    [
        (lambda x: x[0].item(), 1),
        (lambda x: bool(x.any()), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: x[x > 2], 1),
        (lambda x: x[x > hf_parts.Everything()], 0),
        (lambda x: torch.where(x > 2), 1),
        (lambda x: x.cpu().numpy().sum(), 1),
        (lambda x: x.cpu()[0].item(), 1),
        (lambda x: torch.tensor([1.0, 2.0], device=x.device), 1),
        (lambda x: x.new_tensor([1.0]), 1),
        (lambda x: x.cpu().new_tensor([1.0]).tolist(), 1),
        (lambda x: torch.tensor([1, 2]).add(1).to(x.device), 1),
        (lambda x: x[torch.tensor([1, 2])], 1),
        (lambda x: x[[1, 2]], 1),
        (lambda x: torch.tensor([1, 2]).sum().item(), 0),
        (lambda x: x.new_zeros(3).masked_fill(x[:3] > 1, 2) + 1, 0),
        (lambda x: torch.where(x > 2, x, 0.0), 0),
        (lambda x: nn.functional.one_hot(x.long(), 8), 0),
        (lambda x: x[x.argsort()[:3]], 0),
    ],
)
def test_what_counts(work: Callable[[torch.Tensor], Any], times: int) -> None:
    assert counted(work) == times
