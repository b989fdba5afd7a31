"""Properties of the relations between places and between objects."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdflow.errors import SpecError, UsageError
from kdflow.graph.plan import Plan
from kdflow.ops.generators.graph import Graph
from kdflow.ops.generators.relate import Relate
from kdflow.ops.regions.split import split
from kdflow.ops.values.random import random
from tests.methods.shipped import fill, maps, plan_of, terms_of

SIZES = [(8, 8), (4, 4), (2, 2)]
STRIDES = {"student.neck": (4, 8, 16), "teacher.neck": (4, 8, 16)}
BOXES = [torch.tensor([[2.0, 3, 20, 22], [9.0, 4, 30, 29]]), torch.zeros(0, 4), torch.tensor([[1.0, 1, 12, 30]])]
IDENTITY = {f"nodes.{name}.init": "identity" for name in ("graph_view", "related_view", "instance_view")}


def necks(seed: int = 0, grad: bool = False) -> list[Tensor]:
    return maps(*[(len(BOXES), 4, *size) for size in SIZES], seed=seed, grad=grad)


def plan(ours: list[Tensor], theirs: list[Tensor], boxes: list[Tensor] = BOXES, **changes: Any) -> Plan:
    given = {"student.neck": ours, "teacher.neck": theirs, "targets.boxes": boxes}
    return plan_of("drkd", given, changes=IDENTITY | changes, strides=STRIDES, seed=0)


def twins(ours: list[Tensor], theirs: list[Tensor], boxes: list[Tensor] = BOXES) -> Plan:
    """A plan whose teacher-side blocks have the weights of the student's."""
    built = plan(ours, theirs, boxes)
    state = built.ops.state_dict()
    for name, value in state.items():
        if "_teacher." in name:
            value.copy_(state[name.replace("_teacher.", "_student.")])
    return built


def test_equal_maps_and_equal_blocks_give_zero() -> None:
    ours = necks(grad=True)
    built = twins(ours, [m.detach().clone() for m in ours])
    values = terms_of(built, "pixels", "relations", "features")
    assert [float(value.detach()) for value in values] == pytest.approx([0.0] * 3, abs=1e-5)


def test_the_graph_starts_from_the_map_itself() -> None:
    features = necks()
    block = Graph(nodes=(2, 3))
    block.build(features)
    for one in block.blocks:
        torch.nn.init.zeros_(one.bn.weight)
    assert all(torch.equal(out, given) for out, given in zip(block(features), features, strict=True))
    assert [one.to_node.out_channels for one in block.blocks] == [2, 3, 3]


def test_an_object_alone_learns_from_itself_only() -> None:
    (blocks,) = maps((3, 2, 3, 3))
    module = Relate()
    module.build(blocks, BOXES)
    related = module(blocks, BOXES)
    alone = blocks[2:].flatten(1)
    torch.testing.assert_close(related[2:].flatten(1), alone + module.out(module.g(alone)))
    filtered = module(blocks, BOXES, filter=random(blocks, -0.1, 0.1))
    torch.testing.assert_close(filtered[2:], related[2:])
    assert not torch.allclose(filtered[:2], related[:2])


def test_objects_of_other_images_and_their_order_do_not_matter() -> None:
    ours, theirs = necks(), necks(1)
    turned = [BOXES[0].flip(0), *BOXES[1:]]
    whole, other = (terms_of(twins(ours, theirs, boxes), "relations")[0] for boxes in (BOXES, turned))
    torch.testing.assert_close(whole, other)
    images = [
        terms_of(twins([m[i : i + 1] for m in ours], [m[i : i + 1] for m in theirs], [BOXES[i]]), "relations")[0] for i in (0, 2)
    ]
    torch.testing.assert_close(whole, torch.stack(images).sum())


def test_gradient_of_objects_stays_on_two_levels_and_near_the_boxes() -> None:
    ours = necks(grad=True)
    built = plan(ours, necks(1))
    loss = torch.stack(terms_of(built, "relations", "features")).sum()
    fine, _, coarse = torch.autograd.grad(loss, ours, allow_unused=True)
    assert coarse is None
    assert float(fine[1].abs().max()) == 0
    assert float(fine[2, :, :, 5:].abs().max()) == 0
    assert float(fine[0].abs().max()) > 0


def test_features_grow_with_the_difference() -> None:
    ours, theirs = necks(), necks(1)
    further = [t + 3 * (o - t) for o, t in zip(ours, theirs, strict=True)]
    (one,), (three,) = (terms_of(plan(values, theirs), "features") for values in (ours, further))
    torch.testing.assert_close(three, 3 * one, rtol=1e-4, atol=1e-4)


def test_the_teachers_blocks_train() -> None:
    built = plan(necks(), necks(1))
    fill(built, "graph_teacher.blocks.0.bn.weight", 1.0)
    torch.stack(terms_of(built, "pixels", "relations")).sum().backward()
    trained = {name for name, parameter in built.ops.named_parameters() if parameter.grad is not None}
    assert any(name.startswith("graph_teacher") for name in trained)
    assert any(name.startswith("related_teacher.0") for name in trained)


def test_rows_and_boxes_must_agree() -> None:
    (rows,) = maps((3, 2))
    assert [len(own) for own in split(rows, BOXES)] == [2, 0, 1]
    with pytest.raises(UsageError, match="2 rows and 3 boxes"):
        split(rows[:2], BOXES)
    with pytest.raises(UsageError, match="low and high"):
        random(rows, 1.0, 1.0)


def test_a_stack_of_levels_is_not_split_by_image() -> None:
    changes = {"nodes.apart": {"op": "regions.split", "rows": "related_view"}, "terms.relations.student": "apart"}
    with pytest.raises(SpecError, match=r"list over images by itself.*choose one entry"):
        plan(necks(), necks(1), **changes)
