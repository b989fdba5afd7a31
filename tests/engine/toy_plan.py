"""A real plan of two toys: small enough for many steps, with everything that fast mode changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from kdflow.graph.compile import compile_method
from kdflow.graph.plan import Plan
from kdflow.ports import Batch
from kdflow.spec.resolve import parse_method
from tests.engine.fakes import make_recipe
from tests.toy import toy_batch, toys

METHOD = """\
kdflow: 1
method: test
nodes:
  aligned: {op: adapter.conv, features: student.neck, like: teacher.neck}
  places: {op: attention.spatial, features: teacher.neck, temperature: 0.5}
  drawn: {op: mask.random, like: teacher.neck}
terms:
  neck: {loss: loss.squared_error, student: aligned, teacher: teacher.neck, factors: [places, drawn], reduce: sum_of_means}
  logits: {loss: loss.bernoulli_kl, student: student.head.logits, teacher: teacher.head.logits, reduce: sum_of_means}
"""
RECIPE: dict[str, Any] = {"steps": 9, "batch": 2, "log_every": 1, "evaluate_every": None}


def toy_plan(dense: bool = True) -> Plan:
    """The teacher's stages are dense, and its norm has statistics."""
    detectors = toys()
    norm: Any = detectors["teacher"].model.backbone[1]
    nn.init.uniform_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    spec = parse_method(METHOD, "test.yaml")
    torch.manual_seed(3)
    plan = compile_method(spec.resolve(), spec.document, detectors, canvas=(16, 16))
    for node in plan.graph.ordered():
        if node.owner == "teacher" and node.run is not None:
            node.run = type(node.run)(**{**vars(node.run), "dense": dense})
    return plan


def toy_loader(first: int) -> Iterator[Batch]:
    """Endless batches, each by its number."""
    while True:
        batch = toy_batch(1, 2)
        batch.images = batch.images.roll(first, dims=-1)
        yield batch
        first += 1


def toy_recipe(**changes: Any) -> Any:
    """A short recipe with an average and a clipped gradient."""
    return make_recipe(**{**RECIPE, **changes})
