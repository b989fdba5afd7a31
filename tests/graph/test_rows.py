"""Terms know the image of each row from the boxes that the rows were made for."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

import kdflow
from kdflow.errors import SpecError
from kdflow.graph.plan import Plan
from kdflow.spec.resolve import parse_method

NODES = """kdflow: 1
method: test
nodes:
  blocks: {op: regions.pool_every, features: {student: student.neck, teacher: teacher.neck}, bins: 2}
  means: {op: transform.reduce, features: blocks, over: [y, x]}
  wider: {op: adapter.linear, features: means.student, like: means.teacher, init: identity}
terms:
  rows: {loss: loss.squared_error, student: %s, teacher: %s, reduce: %s}
"""
BOXES = [torch.tensor([[2.0, 3, 20, 22], [9.0, 4, 30, 29]]), torch.zeros(0, 4), torch.tensor([[1.0, 1, 12, 30]])]


def neck(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 4, side, side, generator=generator) for side in (8, 4)]


def plan(reduce: str, student: str = "wider", teacher: str = "means.teacher", extra: str = "") -> Plan:
    values = {"student.neck": neck(0), "teacher.neck": neck(1), "targets.boxes": BOXES}
    strides = dict.fromkeys(("student.neck", "teacher.neck"), (4, 8))
    text = (NODES % (student, teacher, reduce)).replace("terms:\n", extra + "terms:\n")
    return kdflow.compile(parse_method(text), values=values, strides=strides)


def term(built: Plan) -> Tensor:
    return built.evaluate({})["kd/rows"].detach()


def squares(built: Plan, level: int) -> list[Tensor]:
    """Squared differences of one level, image by image."""
    values = built.evaluate({}, ["wider", "means.teacher"])
    return list((values["wider"][level].detach() - values["means.teacher"][level]).square().split([2, 0, 1]))


def test_rows_behind_layers_and_sides_are_those_of_the_pooled_boxes() -> None:
    built = plan("{over: [n, c], scope: image, levels: sum}")
    wanted = sum((part.sum() / max(part.numel(), 1)) / 3 for level in (0, 1) for part in squares(built, level))
    torch.testing.assert_close(term(built), wanted)


def test_objects_and_the_batch_divide_rows() -> None:
    whole = sum(part.sum() for level in (0, 1) for part in squares(plan("sum"), level))
    torch.testing.assert_close(term(plan("{over: [objects], levels: sum}")), whole / 3)
    torch.testing.assert_close(term(plan("{over: [b], levels: sum}")), whole / 3)
    torch.testing.assert_close(term(plan("{over: [0.5], floor: b, levels: sum}")), whole / 3)


EXTRA = """  parts: {op: regions.split, rows: "wider[0]"}
  kept: {op: tap.recent, features: "wider[0]", count: 4}
  strong: {op: transform.reduce, features: "wider[0]", over: [n]}
"""


@pytest.mark.parametrize(
    ("reduce", "side", "words"),
    [
        ("{scope: image}", "kept", "scope: image asks for images, and nothing says which row is of which; put {op: regions"),
        ("{scope: image}", "parts", "scope: image asks for images, and the entries of this stack are the images already"),
        ("{over: [b]}", "kept", "b asks for images, and nothing says which row is of which"),
        ("{over: [2], floor: b}", "strong", "floor: b asks for images, and the axes here are c, without b"),
        ("{images: sum}", "parts", "images: sum joins the quotients of images; write scope: image beside it"),
        ("{scope: image, floor: b}", "parts", "with scope: image give a number"),
    ],
)
def test_images_that_are_not_known_are_told(reduce: str, side: str, words: str) -> None:
    with pytest.raises(SpecError, match=re.escape(words)):
        plan(reduce, side, side, EXTRA)
