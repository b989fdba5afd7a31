"""Properties of the decoupled distillation of edge distributions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdflow.experiment.reading import read_method
from kdflow.graph.compile import compile_method
from kdflow.graph.plan import Plan
from kdflow.ops.matching.overlap import overlap
from kdflow.ops.matching.union import union
from tests.contracts.tiny_detectors import batch_for, detector_of
from tests.methods.shipped import SPECS, maps, plan_of, terms_of

LAYERS, IMAGES, QUERIES, BINS = 2, 2, 5, 4
SIZES = [(100, 100)] * IMAGES


def pairs_of(*images: list[tuple[int, int]]) -> list[tuple[Tensor, Tensor]]:
    columns = [torch.tensor(image, dtype=torch.long).reshape(-1, 2) for image in images]
    return [(own[:, 0], own[:, 1]) for own in columns]


def plan(ours: list[Tensor], theirs: Tensor, pairs: Any, targets: list[Tensor]) -> Plan:
    boxes = torch.rand(IMAGES, QUERIES, 4, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
    given = {
        "student.decoder.distribution": ours, "teacher.decoder.distribution": [theirs],
        "teacher.decoder.logits": maps((IMAGES, QUERIES, 3), seed=2), "student.decoder.boxes": [boxes] * LAYERS,
        "pairs": pairs, "targets.boxes": targets, "image_sizes": SIZES,
    }
    node = {f"terms.{name}.at": "transformer/logit" for name in ("objects", "rest")}
    return plan_of("ddf", given, family="transformer", changes=node)


def distributions(seed: int = 0, grad: bool = False) -> list[Tensor]:
    return maps(*[(IMAGES, QUERIES, 4 * BINS)] * LAYERS, seed=seed, grad=grad)


TARGETS = [torch.tensor([[20.0, 20, 70, 80], [40.0, 30, 60, 60]]), torch.zeros(0, 4)]
MATCHED = [pairs_of([(0, 1), (3, 0), (4, 0)], [])]


def total(*arguments: Any) -> Tensor:
    return torch.stack(terms_of(plan(*arguments), "objects", "rest")).sum()


def test_equal_distributions_give_zero_and_no_gradient() -> None:
    (theirs, _) = distributions()
    ours = [theirs.clone().requires_grad_() for _ in range(LAYERS)]
    loss = total(ours, theirs, MATCHED, TARGETS)
    assert abs(float(loss.detach())) < 1e-6
    assert max(float(grad.abs().max()) for grad in torch.autograd.grad(loss, ours)) < 1e-6


def test_without_objects_only_the_rest_counts() -> None:
    ours, theirs = distributions(grad=True), distributions(1)[0]
    objects, rest = terms_of(plan(ours, theirs, [pairs_of([], [])], [torch.zeros(0, 4)] * 2), "objects", "rest")
    assert float(objects.detach()) == 0
    assert float(rest.detach()) > 0
    assert all(torch.isfinite(grad).all() for grad in torch.autograd.grad(objects + rest, ours))


def test_a_batch_twice_over_changes_nothing_and_gradients_sum_to_zero_over_bins() -> None:
    ours, theirs = distributions(grad=True), distributions(1)[0]
    loss = total(ours, theirs, MATCHED, TARGETS)
    for grad in torch.autograd.grad(loss, ours, retain_graph=True):
        assert grad.unflatten(-1, (4, -1)).sum(-1).abs().max() < 1e-6
    shifted = [level.detach() + torch.arange(4).repeat_interleave(BINS) for level in ours]
    torch.testing.assert_close(total(shifted, theirs, MATCHED, TARGETS), loss.detach())


def test_the_union_keeps_the_object_that_most_matchings_name() -> None:
    first = [pairs_of([(0, 1), (2, 0)], []), pairs_of([(0, 2), (2, 0)], [(1, 0)])]
    second = [pairs_of([(0, 2), (1, 1)], [])]
    ((one, other),) = union([first, second])
    assert [index.tolist() for index in one] == [[0, 1, 2], [2, 1, 0]]
    assert [index.tolist() for index in other] == [[1], [0]]


def test_overlap_is_zero_for_queries_without_an_object() -> None:
    boxes = [torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]]])]
    found = overlap(boxes, [pairs_of([(0, 0)])], [torch.tensor([[40.0, 40, 60, 80]])], [(100, 100)])
    assert found["matched"][0].tolist() == [[1, 0]]
    torch.testing.assert_close(found["iou"][0], torch.tensor([[0.5, 0.0]]))


def test_it_runs_on_two_detectors_with_distributions() -> None:
    detectors = {"student": detector_of("d-fine"), "teacher": detector_of("d-fine", 1)}
    spec = read_method(SPECS / "ddf.yaml")
    method = spec.resolve({"student.family": "transformer", "student.detector": "d-fine", "teacher.family": "transformer"}, {})
    built = compile_method(method, spec.document, detectors, canvas=(96, 96))
    outcome = built(batch_for("d-fine"))
    assert float(outcome.raw["kd/objects"].detach()) > 0
    assert float(outcome.raw["kd/rest"].detach()) > 0
