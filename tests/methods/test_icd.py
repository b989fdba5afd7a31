"""Properties of ICD."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kdflow.errors import SpecError
from kdflow.functional.positions import point_code
from kdflow.graph.compile import compile_method
from kdflow.graph.plan import Plan
from kdflow.ops.queries.instances import instances, size_code
from kdflow.spec.resolve import parse_method
from tests.methods.shipped import fill, maps, plan_of
from tests.toy import toys

WIDTH, HEADS = 8, 2
SHAPES = ((2, WIDTH, 8, 8), (2, WIDTH, 4, 4))
BOXES = [torch.tensor([[4.0, 4, 40, 30], [10.0, 20, 50, 60]]), torch.zeros(0, 4)]
LABELS = [torch.tensor([0, 2]), torch.zeros(0, dtype=torch.long)]
CHANGES: dict[str, Any] = {
    "modules.project.channels": WIDTH, "nodes.encoded.channels": [WIDTH], "nodes.codes.channels": WIDTH,
    "nodes.decoder.channels": WIDTH, "nodes.decoder.heads": HEADS, "nodes.our_heads.heads": HEADS,
    "nodes.still_heads.heads": HEADS, "nodes.predicted.channels": [5],
}


def plan(ours: list[Tensor], theirs: list[Tensor], **changes: Any) -> Plan:
    given = {
        "student.neck": ours, "teacher.neck": theirs, "targets.boxes": BOXES, "targets.labels": LABELS,
        "image_sizes": [(64, 64), (64, 48)], "images": torch.zeros(2, 3, 64, 64),
        "student.head.logits": [torch.zeros(2, 80, 3)],
    }
    return plan_of("icd", given, family="dense", changes=CHANGES | changes)


def value(plan: Plan, name: str) -> Any:
    return plan.evaluate({}, [name])[name]


def copy_projection(plan: Plan, scale: float = 1.0) -> None:
    names = dict(plan.ops.named_parameters())
    with torch.no_grad():
        names["project.linear.weight"].copy_(scale * names["decoder.value.weight"])
        names["project.linear.bias"].copy_(scale * names["decoder.value.bias"])


def test_equal_features_and_projections_give_zero() -> None:
    same = plan(maps(*SHAPES), maps(*SHAPES))
    copy_projection(same)
    torch.testing.assert_close(value(same, "kd/distill"), torch.tensor(0.0), atol=1e-10, rtol=0)


def test_the_scale_of_the_students_values_does_not_matter() -> None:
    with_one, with_five = (plan(maps(*SHAPES, seed=1), maps(*SHAPES), **{"nodes.ours.eps": 1e-12}) for _ in range(2))
    copy_projection(with_one, 1.0)
    copy_projection(with_five, 5.0)
    torch.testing.assert_close(value(with_one, "kd/distill"), value(with_five, "kd/distill"))


def test_images_without_objects_teach_nothing() -> None:
    ours = maps(*SHAPES, grad=True)
    grads = torch.autograd.grad(value(plan(ours, maps(*SHAPES, seed=1)), "kd/distill"), ours)
    for grad in grads:
        assert grad[0].any()
        assert not grad[1].any()


def test_features_are_left_alone_for_the_first_thousand_steps_or_a_tenth_of_the_run() -> None:
    ours = maps(*SHAPES, grad=True)
    built = plan(ours, maps(*SHAPES, seed=1))
    raw = built.evaluate({}, [t.name for t in built.terms])
    torch.testing.assert_close(raw["kd/settle"], raw["kd/distill"])
    for step, total, reaches in (
        (0, 90_000, False), (999, 90_000, False), (1000, 90_000, True), (29, 300, False), (30, 300, True),
    ):  # fmt: skip
        built.advance(step, total, 1)
        weighted = built.weigh(raw)
        both = weighted["kd/settle"] + weighted["kd/distill"]
        torch.testing.assert_close(both, 8 * raw["kd/distill"])
        grads = torch.autograd.grad(both, ours, retain_graph=True)
        assert bool(grads[0].any()) is reaches
        (weight,) = torch.autograd.grad(both, dict(built.ops.named_parameters())["project.linear.weight"], retain_graph=True)
        assert weight.any()


def test_the_identification_task_trains_the_teacher_side_only() -> None:
    ours = maps(*SHAPES, grad=True)
    built = plan(ours, maps(*SHAPES, seed=1))
    raw = built.evaluate({}, ["kd/identify", "kd/locate"])
    loss = raw["kd/identify"] + raw["kd/locate"]
    names = dict(built.ops.named_parameters())
    grads = torch.autograd.grad(loss, [*ours, *names.values()], allow_unused=True)
    assert all(g is None for g in grads[: len(ours)])
    reached = {name for name, grad in zip(names, grads[len(ours):], strict=True) if grad is not None}
    assert reached == {name for name in names if not name.startswith("project.")}


def test_a_term_may_train_modules_of_the_method_alone_if_it_says_where_it_stands() -> None:
    text = """
kdflow: 1
method: test
nodes:
  guess: {op: adapter.conv, features: teacher.neck}
terms:
  practice: {loss: loss.squared_error, student: guess, teacher: teacher.neck, at: cnn/neck, reduce: sum_of_means}
"""
    spec = parse_method(text, "test.yaml")
    built = compile_method(spec.resolve(), spec.document, toys(), canvas=(16, 16))
    assert [t.name for t in built.terms if t.auxiliary] == ["kd/practice"]
    silent = parse_method(text.replace(", at: cnn/neck", ""), "test.yaml")
    with pytest.raises(SpecError, match="no student tensor is compared here"):
        compile_method(silent.resolve(), silent.document, toys(), canvas=(16, 16))


def test_the_mask_counts_real_objects_and_leaves_padding_out() -> None:
    built = plan(maps(*SHAPES), maps(*SHAPES, seed=1))
    mask, padded = value(built, "mask"), value(built, "visible") == 0
    torch.testing.assert_close(mask.sum(-1), torch.tensor([[2.0, 2.0], [0.0, 0.0]]))
    assert padded[1].sum() == 8 * 2 + 4
    assert not mask.transpose(1, 2)[padded].any()
    fewer = value(plan(maps(*SHAPES), maps(*SHAPES, seed=1), **{"nodes.instances.fakes": 0.0}), "instances.real")
    assert fewer.shape == (2, 2)


def test_made_up_objects_do_not_change_the_mask() -> None:
    built = plan(maps(*SHAPES), maps(*SHAPES, seed=1))
    fill(built, "decoder.query.weight", 0.0)                        # every query looks alike, made-up or not
    even = value(built, "mask")
    other = plan(maps(*SHAPES), maps(*SHAPES, seed=1), **{"nodes.instances.fakes": 1.0})
    other.load_state_dict(built.state_dict())
    torch.testing.assert_close(value(other, "mask"), even)


def test_descriptors_are_built_as_in_the_original_code() -> None:
    case = np.load(Path(__file__).parents[1] / "goldens" / "icd" / "case1.npz")
    descriptors, real = torch.as_tensor(case["descriptors"]), torch.as_tensor(case["query_is_real"]) > 0
    classes = int(case["hp.num_classes"])
    kinds = functional.one_hot(torch.as_tensor(case["query_class"]), classes).float()
    assert torch.equal(descriptors[..., :classes][real], kinds[real])
    code = point_code(torch.as_tensor(case["query_point"]))
    torch.testing.assert_close(descriptors[..., classes:-10][real], code[real], atol=1e-4, rtol=1e-4)
    assert size_code(torch.tensor([[20.0, 63.0], [65.0, 130.0], [300.0, 2000.0]])).nonzero()[:, 1].tolist() == [
        0, 5, 1, 7, 3, 9,
    ]


def test_instances_stay_inside_their_boxes() -> None:
    torch.manual_seed(0)
    found = instances([torch.zeros(2, 1, 3)], BOXES, LABELS, [(64, 64), (64, 48)], fakes=5.0)
    assert found["valid"].sum(1).tolist() == [12, 1]
    assert found["real"].sum(1).tolist() == [2, 0]
    edges, sides = found["edges"][0, :2], (BOXES[0][:, 2:] - BOXES[0][:, :2]) / 64
    torch.testing.assert_close(edges[:, :2] + edges[:, 2:], sides)
    assert (edges > 0).all()
    torch.testing.assert_close(found["inverse_sides"][0, :2], 1 / sides.repeat(1, 2))
