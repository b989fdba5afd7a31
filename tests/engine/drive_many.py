"""What each of several processes does (see test_many.py): train, resume, stop, evaluate; the first writes what it found."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdflow.engine import ranks
from kdflow.engine.checkpoint import LAST, read
from kdflow.engine.machine import open_machine
from kdflow.errors import InvariantError
from kdflow.events import EvaluationEvent, Silent, StopRun, WeightEvent
from kdflow.ports import Batch
from kdflow.spec.balance import Control
from kdflow.spec.method import Phase
from tests.engine.fakes import FakeOutcome, FakePlan, arguments, fit, make_batch, make_recipe
from tests.engine.toy_plan import toy_loader, toy_plan, toy_recipe

PHASES = (Phase(name="adapter", steps=4, train=("ops.*",)), Phase(name="all", steps=8))


def quiet_plan() -> FakePlan:
    """Without BatchNorm and noise the processes' mean gradient is that of the whole batch."""
    plan = FakePlan(noise=0)
    plan.student.norm = nn.Identity()
    return plan


def share(first: int) -> Iterator[Batch]:
    """This process's images of each whole batch."""
    index = first
    while True:
        whole, size = make_batch(index), 4 // ranks.world_size()
        part = slice(ranks.rank() * size, (ranks.rank() + 1) * size)
        yield Batch(whole.images[part], whole.image_sizes[part], whole.boxes[part], whole.labels[part])
        index += 1


def toy_share(first: int) -> Iterator[Batch]:
    """Other batches in each process."""
    return toy_loader(first + 5 * ranks.rank())


class Unreached(FakePlan):
    """Owns a parameter that no term uses."""

    def __init__(self) -> None:
        super().__init__()
        self.ops["idle"] = nn.Linear(1, 1)


class Dying(FakePlan):
    """Every process fails in step 9."""

    def forward(self, batch: Batch) -> FakeOutcome:
        if self.advanced[-1][0] == 9:
            raise KeyboardInterrupt
        return super().forward(batch)


class Weights(Silent):
    def __init__(self) -> None:
        self.told: list[int] = []

    def weights_changed(self, event: WeightEvent) -> None:
        self.told.append(event.step)


class Prune(Silent):
    def evaluation_ended(self, event: EvaluationEvent) -> None:
        raise StopRun("pruned")


def outcomes(folder: Path, machine: Any) -> dict[str, Any]:
    plan = quiet_plan()
    result = fit(plan, share, make_recipe(accumulate=2), **arguments(folder / "quiet", device=machine, phases=PHASES))
    found: dict[str, Any] = {"quiet": plan.state_dict(), "history": [e.total for e in result.history]}
    found["parts"] = ranks.gather(plan.advanced[0][1])

    recipe = make_recipe()
    fit(FakePlan(), share, recipe, **arguments(folder / "alone", device=machine))
    try:
        fit(Dying(), share, recipe, **arguments(folder / "killed", device=machine))
    except KeyboardInterrupt:
        ranks.wait()
    resumed = fit(FakePlan(), share, recipe, **arguments(folder / "killed", device=machine))
    found["resumed_from"] = resumed.resumed_from_step
    found["alone"], found["killed"] = read(folder / "alone" / LAST), read(folder / "killed" / LAST)

    stopped = fit(FakePlan(), share, recipe, **arguments(folder / "stopped", device=machine, hooks=(Prune(),)))
    found["stopped"] = ranks.gather((stopped.status, stopped.reason, stopped.step))
    try:
        fit(Unreached(), share, recipe, **arguments(folder / "unreached", device=machine))
    except InvariantError as error:
        found["culprit"] = error.culprit
    kept, weights = [], Weights()
    for log in (weights, Weights()):
        plan = FakePlan()
        control = Control(share=0.3, every=4)
        plan.terms = (plan.terms[0], replace(plan.terms[1], share=0.4, control=control))
        fit(plan, share, recipe, **arguments(folder / f"kept{len(kept)}", device=machine, hooks=(log,)))
        kept.append(plan.weights["kd/neck"])
    for name in ("exact", "fast"):
        plan, recipe = toy_plan(), toy_recipe(fast=name == "fast")
        arguments_of = {"folder": folder / name, "total_steps": 4, "steps_per_epoch": 4, "seed": 7, "device": machine}
        fit(plan, toy_share, recipe, **arguments_of)
        found[name] = ranks.gather({key: value.clone() for key, value in plan.state_dict().items()})
    found["kept"], found["told"] = ranks.gather(tuple(kept)), ranks.gather(weights.told)
    return found


if __name__ == "__main__":
    where = Path(sys.argv[1])
    with open_machine("cpu") as opened:
        written = outcomes(where, opened)
        if opened.is_first:
            torch.save(written, where / "found.pt")
    if torch.distributed.is_initialized():
        raise SystemExit("the process group was left behind")
