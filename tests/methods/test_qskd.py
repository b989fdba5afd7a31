"""Properties of queries grouped by objects."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdflow.ops.attention.seen import seen
from kdflow.ops.matching.ranked import ranked
from kdflow.ops.queries.groups import groups
from tests.methods.shipped import maps, plan_of, terms_of

QUERIES, SIDE, SIZES = 6, 4, [(64, 64), (64, 64)]
TARGETS = [torch.tensor([[4.0, 4, 30, 28], [30.0, 30, 60, 60]]), torch.zeros(0, 4)]
PAIRS = [[(torch.tensor([1, 4]), torch.tensor([0, 1])), (torch.zeros(0, dtype=torch.long),) * 2]]


def predicted(seed: int = 0) -> Tensor:
    """(B, Q, 4) cxcywh in 0..1; queries 0 to 2 near the first object, 3 to 5 near the second."""
    near = torch.tensor([[0.27, 0.25, 0.4, 0.38]] * 3 + [[0.7, 0.7, 0.47, 0.47]] * 3)
    (noise,) = maps((2, QUERIES, 4), seed=seed)
    return near + 0.02 * noise


def pixels(boxes: Tensor) -> Tensor:
    half = boxes[..., 2:] / 2
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], -1) * 64


def values(ours: int, theirs: int) -> dict[str, Any]:
    given: dict[str, Any] = {"targets.boxes": TARGETS, "image_sizes": SIZES}
    for owner, seed in (("student", ours), ("teacher", theirs)):
        memory, logits = maps((2, 3, SIDE, SIDE), (2, QUERIES, 2), seed=seed)
        given |= {
            f"{owner}.decoder.boxes": [predicted(seed)], f"{owner}.decoder.logits": [logits], f"{owner}.encoder.memory": [memory],
            f"{owner}.match.indices": PAIRS,
        }
    (weights,) = maps((2, 2, QUERIES, SIDE**2), seed=9)
    return given | {"teacher.decoder.cross_attention": [weights.softmax(-1)]}


def terms(given: dict[str, Any], *names: str) -> list[Tensor]:
    strides = {f"{owner}.encoder.memory": (16,) for owner in ("student", "teacher")}
    return terms_of(plan_of("qskd", given, family="transformer", strides=strides), *names)


def test_equal_models_give_zero_but_for_the_entropy_of_classes() -> None:
    found = terms(values(1, 1), "agfd", "lapd_boxes", "lapd_giou")
    assert max(float(value) for value in found) < 1e-6
    assert float(terms(values(1, 1), "lapd_classes")[0]) > 0


def test_the_bound_leaves_matched_queries_or_takes_all() -> None:
    boxes = pixels(predicted())
    only = groups(boxes, PAIRS, TARGETS, giou=1.0)
    assert only["chosen"].nonzero().tolist() == [[0, 1], [0, 4]]
    assert groups(boxes, PAIRS, TARGETS, giou=-1.0)["chosen"].sum(1).tolist() == [QUERIES, 0]
    some = groups(boxes, PAIRS, TARGETS, giou=0.3, most=2)
    assert some["chosen"].sum(1).tolist() == [4, 0]
    assert some["objects"][0, [1, 4]].tolist() == [0, 1]


def test_pairs_are_made_object_by_object_and_best_first() -> None:
    ours, theirs = torch.tensor([[0, 0, 1, -1]]), torch.tensor([[1, 0, 1, 0, 0]])
    our_fit, their_fit = torch.tensor([[0.5, 0.9, 0.4, -2.0]]), torch.tensor([[0.6, 0.2, 0.8, 0.7, 0.3]])
    (((own, other),),) = ranked(ours, theirs, our_fit, their_fit)
    assert dict(zip(own.tolist(), other.tolist(), strict=True)) == {1: 3, 0: 4, 2: 2}


def test_without_objects_all_is_zero_and_finite() -> None:
    given = values(1, 2)
    given["targets.boxes"], given["teacher.match.indices"] = [torch.zeros(0, 4)] * 2, [[PAIRS[0][1]] * 2]
    given["student.match.indices"] = given["teacher.match.indices"]
    assert [float(value) for value in terms(given, "agfd", "lapd_classes", "lapd_boxes", "lapd_giou")] == [0.0] * 4


def test_features_learn_only_where_the_queries_look() -> None:
    given = values(1, 2)
    attention = torch.zeros(2, 2, QUERIES, SIDE**2)
    attention[0, :, 1, 5] = 1.0
    given["teacher.decoder.cross_attention"] = [attention]
    memory = given["student.encoder.memory"][0].requires_grad_()
    (grad,) = torch.autograd.grad(terms(given, "agfd")[0], memory)
    assert grad.abs().sum(1).flatten(1).nonzero().tolist() == [[0, 5]]
    assert float(seen(attention, torch.zeros(2, QUERIES)).max()) == 0


def test_the_order_of_queries_does_not_matter() -> None:
    given = values(1, 2)
    before = terms(given, "lapd_classes", "lapd_boxes")
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    place = torch.argsort(order)
    for name in ("boxes", "logits"):
        given[f"student.decoder.{name}"] = [given[f"student.decoder.{name}"][0][:, order]]
    given["student.match.indices"] = [[(place[queries], numbers) for queries, numbers in PAIRS[0]]]
    for a, b in zip(before, terms(given, "lapd_classes", "lapd_boxes"), strict=True):
        torch.testing.assert_close(a, b)
