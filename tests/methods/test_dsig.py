"""Properties of DSIG."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.methods.shipped import maps, plan_of, terms_of

COUNTS = (5, 4)
LABELS = torch.tensor([0, 1, 2, 2, 2, 1, 2, 2, 2])          # of two classes; 2 is the background
BOXES = [torch.zeros(n, 4) for n in COUNTS]
UNUSED = ("nodes.shared", "terms.map", "nodes.aligned")


def values(**changes: Any) -> dict[str, Any]:
    (ours, theirs), (logits, shared), (deltas, boxes) = (
        maps((9, 3, 2, 2), (9, 3, 2, 2)), maps((9, 3), (9, 3), seed=1), maps((9, 12), (9, 12), seed=2),
    )
    return {
        "regions.student": ours, "regions.teacher": theirs, "student.roi.boxes": BOXES, "student.roi.labels": LABELS,
        "student.roi.positive": LABELS < 2, "student.roi.negative": LABELS == 2, "student.roi.logits": logits,
        "shared.logits": shared, "student.roi.deltas": deltas, "shared.deltas": boxes, **changes,
    }


def term(name: str, changes: dict[str, Any] | None = None, **given: Any) -> Tensor:
    return terms_of(plan_of("dsig", values(**given), drop=UNUSED, changes=changes), name)[0]


def test_equal_models_are_at_zero_and_scores_have_no_gradient() -> None:
    (logits,) = maps((9, 3), grad=True)
    same = values(**{"student.roi.logits": logits})
    same |= {"regions.teacher": same["regions.student"], "shared.deltas": same["student.roi.deltas"]}
    same |= {"shared.logits": logits.detach().clone()}
    plan = plan_of("dsig", same, drop=UNUSED)
    for name in ("objects", "background", "edges", "boxes"):
        assert terms_of(plan, name)[0].abs() < 1e-10
    (grad,) = torch.autograd.grad(terms_of(plan, "classes")[0], logits)
    torch.testing.assert_close(grad, torch.zeros_like(grad), atol=1e-7, rtol=0)


def test_edges_do_not_see_lengths_but_nodes_do() -> None:
    ours = values()["regions.student"]
    longer = ours.clone()
    longer[0] *= 3
    torch.testing.assert_close(term("edges", **{"regions.student": longer}), term("edges"))
    assert term("objects", **{"regions.student": longer}) != term("objects")


@pytest.mark.parametrize(("bound", "background"), [(0.0, False), (1.0, True)])
def test_the_bound_decides_how_much_background_joins_the_graph(bound: float, background: bool) -> None:
    """``bound`` 0 is an infinite cross-entropy: objects alone; 1 takes all background."""
    given, wanted = values(), torch.zeros(())
    for rows in torch.arange(9).split(COUNTS):
        kept = rows if background else rows[LABELS[rows] < 2]
        ours, theirs = (given[side][kept].flatten(1) for side in ("regions.student", "regions.teacher"))
        tables = [torch.cosine_similarity(x[:, None], x[None], dim=-1) for x in (ours, theirs)]
        wanted = wanted + (tables[0] - tables[1]).square().mean() / 2
    torch.testing.assert_close(term("edges", {"nodes.missed.to": bound}), wanted)


def test_background_counts_by_the_ratio_of_objects_to_it() -> None:
    given, wanted = values(), torch.zeros(())
    for rows in torch.arange(9).split(COUNTS):
        rest, objects = rows[LABELS[rows] == 2], rows[LABELS[rows] < 2]
        errors = (given["regions.student"][rest] - given["regions.teacher"][rest]).square().mean()
        wanted = wanted + errors * len(objects) / len(rest)
    torch.testing.assert_close(term("background"), wanted)


def test_an_image_twice_counts_twice() -> None:
    once, twice = values(), {}
    for key, value in once.items():
        twice[key] = value * 2 if isinstance(value, list) else torch.cat([value, value])
    for name in ("objects", "background", "edges"):
        torch.testing.assert_close(term(name, **twice), 2 * term(name))


def test_images_without_objects_or_background_give_zero_and_finite_gradients() -> None:
    for label in (0, 2):
        (ours,) = maps((9, 3, 2, 2), grad=True)
        labels = torch.full((9,), label)
        given = {
            "regions.student": ours, "student.roi.labels": labels,
            "student.roi.positive": labels < 2, "student.roi.negative": labels == 2,
        }
        name = "objects" if label == 2 else "background"
        value = term(name, **given)
        assert value.detach() == 0
        assert not torch.autograd.grad(value, ours)[0].any()


def test_dense_images_without_boxes_give_zero_and_finite_gradients() -> None:
    ours = torch.zeros(0, 3, 2, 2, requires_grad=True)
    given = {"regions.student": ours, "regions.teacher": torch.zeros(0, 3, 2, 2), "proposed.boxes": [torch.zeros(0, 4)] * 2}
    changes = {"terms.objects.at": "cnn/neck", "terms.edges.at": "cnn/neck"}
    logits, deltas = maps((2, 6, 2), (2, 6, 4))
    places = {"student.assign.weights": [torch.ones(2, 6)], "student.assign.positive": [torch.zeros(2, 6)]}
    heads = {f"{who}.head.{port}": [x] for who in ("student", "teacher") for port, x in (("logits", logits), ("deltas", deltas))}
    plan = plan_of("dsig", given | places | heads, family="dense", drop=("terms.map", "nodes.aligned"), changes=changes)
    for name in ("objects", "edges"):
        value = terms_of(plan, name)[0]
        assert value.detach() == 0
        assert torch.isfinite(torch.autograd.grad(value, ours, allow_unused=True)[0]).all()
