"""Weights set by shares of the gradient: the arithmetic by hand, and a run that is otherwise as if nothing had been looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kdflow.engine.calibrate import solve
from kdflow.engine.checkpoint import LAST, read
from kdflow.engine.machine import Machine
from kdflow.errors import InvariantError
from kdflow.events import PullEvent, Silent, StepEvent, StopRun, WeightEvent
from kdflow.ports import Batch
from kdflow.spec.bench import Calibrate
from kdflow.spec.method import Phase
from tests.engine.fakes import FakePlan, arguments, differences, fit, loader, make_batch, make_recipe


class Log(Silent):
    def __init__(self, stop: int | None = None) -> None:
        self.events: list[WeightEvent] = []
        self.pulls: list[PullEvent] = []
        self.stop = stop

    def weights_changed(self, event: WeightEvent) -> None:
        self.events.append(event)

    def pulls_known(self, event: PullEvent) -> None:
        self.pulls.append(event)

    def step_ended(self, event: StepEvent) -> None:
        if event.step == self.stop:
            raise StopRun("enough")


def shared(share: float | None = 0.5, weight: float = 1.0, **changes: Any) -> FakePlan:
    plan = FakePlan(**changes)
    plan.terms = (plan.terms[0], replace(plan.terms[1], share=share, weight=weight))
    plan.weights["kd/neck"] = weight
    return plan


def always_the_first(_: int) -> Iterator[Batch]:
    while True:
        yield make_batch(0)


@pytest.mark.parametrize(
    ("weights", "per_weight", "shares", "together", "expected"),
    [
        # half of the gradient is one time the detector's losses
        ({"a": 1.0}, {"a": 20.0}, {"a": 0.5}, None, {"a": 0.05}),
        # 0.3 and 0.2 of the gradient leave 0.5: 0.6 and 0.4 times the detector's losses
        ({"a": 1.0, "b": 1.0}, {"a": 2.0, "b": 4.0}, {"a": 0.3, "b": 0.2}, None, {"a": 0.3, "b": 0.1}),
        # pulls of 6 and 2 become 0.75 and 0.25: the ratio is the method's
        ({"a": 3.0, "b": 1.0}, {"a": 2.0, "b": 2.0}, {}, Calibrate(), {"a": 0.125, "b": 0.125}),
        # together 0.5: a has 0.3, which is 0.6 times the detector's losses, b what is left, 0.4 times
        ({"a": 1.0, "b": 5.0}, {"a": 2.0, "b": 2.0}, {"a": 0.3}, Calibrate(), {"a": 0.3, "b": 0.04}),
        # a term without a gradient keeps its ratio to the others
        ({"a": -3.0, "b": 1.0}, {"a": 2.0}, {}, Calibrate(share=0.75), {"a": 0.5, "b": 0.5}),
        ({"a": 1.0}, {}, {"a": 0.5}, None, {}),
        ({"a": 1.0}, {}, {}, Calibrate(), {}),
    ],
)
def test_factors_by_hand(
    weights: dict[str, float], per_weight: dict[str, float], shares: dict[str, float], together: Any, expected: dict[str, float]
) -> None:
    assert solve(weights, per_weight, shares, together) == pytest.approx(expected)


def test_weight_is_set_before_the_first_step_and_the_share_is_met(machine: Machine, tmp_path: Path) -> None:
    log, plan = Log(), shared(0.8, noise=0.0)
    fit(plan, always_the_first, make_recipe(steps=1), **arguments(tmp_path, total_steps=1, device=machine, hooks=(log,)))
    (event,) = log.events
    assert (event.step, event.calibrated) == (0, True)
    assert plan.weights["kd/neck"] == event.changes[0].after
    # the gradient of the first step: 0.8 of it is four times the rest
    assert log.pulls[0].pulls[0].pull == pytest.approx(4.0, rel=1e-5)


def test_recipe_calibrates_numbers_too_and_keeps_signs(machine: Machine, tmp_path: Path) -> None:
    log, plan = Log(), shared(None, weight=-300.0, noise=0.0)
    recipe = make_recipe(steps=1, calibrate=Calibrate(share=0.25, batches=3))
    fit(plan, always_the_first, recipe, **arguments(tmp_path, total_steps=1, device=machine, hooks=(log,), evaluate=None))
    assert log.pulls[0].pulls[0].pull == pytest.approx(1 / 3, rel=1e-5)
    assert plan.weights["kd/neck"] < 0
    assert log.events[0].changes[0].before == -300.0


def test_looking_moves_neither_statistics_nor_random_numbers_nor_batches(machine: Machine, tmp_path: Path) -> None:
    log = Log()
    plan, written = shared(0.5), None
    fit(plan, loader, make_recipe(), **arguments(tmp_path / "a", device=machine, hooks=(log,)))
    written = shared(None, weight=log.events[0].changes[0].after)
    fit(written, loader, make_recipe(), **arguments(tmp_path / "b", device=machine))
    a, b = read(tmp_path / "a" / LAST), read(tmp_path / "b" / LAST)
    assert a.pop("calibrated") == ["kd/neck"]
    assert b.pop("calibrated") == []
    assert differences(a, b) == []
    assert all(torch.equal(x, y) for x, y in zip(plan.student.state_dict().values(), written.student.state_dict().values()))


def test_resumed_run_does_not_calibrate_again(machine: Machine, tmp_path: Path) -> None:
    whole, first, rest = Log(), Log(6), Log()
    fit(shared(0.5), loader, make_recipe(), **arguments(tmp_path / "a", device=machine, hooks=(whole,)))
    fit(shared(0.5), loader, make_recipe(), **arguments(tmp_path / "b", device=machine, hooks=(first,)))
    plan = shared(0.5)
    result = fit(plan, loader, make_recipe(), **arguments(tmp_path / "b", device=machine, hooks=(rest,)))
    assert result.resumed_from_step == 4
    assert first.events == whole.events
    assert rest.events == []
    assert plan.weights["kd/neck"] == whole.events[0].changes[0].after
    assert differences(read(tmp_path / "a" / LAST), read(tmp_path / "b" / LAST)) == []


def test_a_share_of_no_gradient_stops_the_run_by_name(machine: Machine, tmp_path: Path) -> None:
    class Mute(FakePlan):
        def forward(self, batch: Batch) -> Any:
            outcome = super().forward(batch)
            return replace(outcome, raw={**outcome.raw, "kd/neck": outcome.raw["kd/neck"].detach()})

    plan = Mute()
    plan.terms = (plan.terms[0], replace(plan.terms[1], share=0.5))
    with pytest.raises(InvariantError, match="in 8 batches it had no gradient") as caught:
        fit(plan, loader, make_recipe(), **arguments(tmp_path, device=machine))
    assert caught.value.culprit == "kd/neck"


def test_a_term_is_calibrated_where_it_first_counts(machine: Machine, tmp_path: Path) -> None:
    phases = (Phase(name="alone", steps=0.5, terms=("det/*",)), Phase(name="taught", steps=0.5))
    log = Log()
    fit(shared(0.5), loader, make_recipe(), **arguments(tmp_path, device=machine, hooks=(log,), phases=phases, evaluate=None))
    assert [event.step for event in log.events] == [6]


def test_without_own_losses_numbers_stay_as_they_are(machine: Machine, tmp_path: Path) -> None:
    phases = (Phase(name="taught", steps=1.0, terms=("kd/*",)),)
    log, plan = Log(), shared(None, weight=2.0)
    recipe = make_recipe(calibrate=Calibrate())
    fit(plan, loader, recipe, **arguments(tmp_path, device=machine, hooks=(log,), phases=phases, evaluate=None))
    assert (log.events, plan.weights["kd/neck"]) == ([], 2.0)
