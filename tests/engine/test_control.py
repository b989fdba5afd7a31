"""Controllers: the rule against the original code's numbers, and in a run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdflow.engine.checkpoint import LAST, read
from kdflow.engine.control import Controls, next_weight, share_of
from kdflow.engine.machine import Machine
from kdflow.events import Silent, StepEvent, StopRun, WeightEvent
from kdflow.spec.balance import Control
from kdflow.spec.bench import Schedule
from tests.engine.fakes import FakePlan, FakeTerm, arguments, differences, fit, loader, make_recipe

FOLDER = Path(os.environ.get("KDFLOW_GOLDENS", Path(__file__).parents[1] / "goldens")) / "rt-detrv4"
CASES = sorted(FOLDER.glob("*.npz"))
BAND = Control(share=0.11, within=0.01, of=("*",), aim="far", fallback=20.0)


class Log(Silent):
    def __init__(self, stop: int | None = None) -> None:
        self.events: list[WeightEvent] = []
        self.stop = stop

    def weights_changed(self, event: WeightEvent) -> None:
        self.events.append(event)

    def step_ended(self, event: StepEvent) -> None:
        if event.step == self.stop:
            raise StopRun("enough")


def controlled(control: Control, weight: float = 1.0, **changes: Any) -> FakePlan:
    plan = FakePlan(**changes)
    plan.terms = (plan.terms[0], replace(plan.terms[1], control=control))
    plan.weights["kd/neck"] = weight
    return plan


def test_goldens_are_there() -> None:
    assert CASES


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_weights_follow_the_shares_as_in_the_original_code(path: Path) -> None:
    case = np.load(path)
    control = Control(
        share=float(case["hp.rho"]) / 100, within=float(case["hp.delta"]) / 100, of=("*",), aim="far", limit=10,
        fallback=float(case["hp.default_weight"]),
    )
    weights = [float(case["hp.initial_weight"])]
    for epoch, share in enumerate(case["gam.share"]):
        weights.append(next_weight(control, weights[-1], float(share) / 100, epoch >= int(case["hp.stop_epoch"])))
    assert weights == pytest.approx(case["expected64.gam.weight"].tolist(), rel=1e-9)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_share_of_parameters_is_that_of_the_original_code(path: Path) -> None:
    case = np.load(path)
    keys = sorted(key for key in case.files if key.startswith("share.grad."))
    gradients = {key: torch.from_numpy(case[key]) for key in keys}
    chosen = {key for key, inside in zip(keys, case["share.in_encoder"], strict=True) if inside}
    assert float(share_of(gradients, chosen)) == pytest.approx(float(case["expected64.share.percent"]) / 100, rel=1e-6)


def test_shares_without_a_finite_gradient_are_nothing() -> None:
    zero, infinite, one = torch.zeros(2), torch.tensor([float("inf")]), torch.ones(3)
    assert float(share_of({"a": zero, "b": zero}, {"a"})) == 0
    assert float(share_of({"a": one, "b": infinite}, {"a"})) == 0
    assert float(share_of({"a": one, "b": -3 * one}, {"a"})) == 0.25
    assert float(share_of({"a": one}, {"c"})) == 0


@pytest.mark.parametrize(
    ("share", "expected"), [(0.10, 5.0), (0.12, 5.0), (0.11, 5.0), (1e-4, 50.0), (0.99, 0.5), (0.0, 20.0), (1.0, 0.5)]
)
def test_edges_of_the_band_are_inside_and_changes_are_limited(share: float, expected: float) -> None:
    assert next_weight(BAND, 5.0, share) == pytest.approx(expected)


@pytest.mark.parametrize(("aim", "share"), [("middle", 0.2), ("near", 0.15), ("far", 0.25)])
def test_what_is_aimed_at_would_be_met_if_odds_follow_the_weight(aim: Any, share: float) -> None:
    control = Control(share=0.2, within=0.05, aim=aim)
    odds = next_weight(control, 3.0, 0.1) / 3.0 * 0.1 / 0.9
    assert odds / (1 + odds) == pytest.approx(share)


def test_without_a_gradient_or_a_fallback_the_weight_stays() -> None:
    control = Control(share=0.2)
    assert next_weight(control, 3.0, 0.0) == next_weight(control, 3.0, 0.5, ended=True) == 3.0
    assert next_weight(replace_control(control, fallback=7.0), 3.0, 0.5, ended=True) == 7.0


def replace_control(control: Control, **changes: Any) -> Control:
    return control.model_copy(update=changes)


def test_own_share_is_kept_in_a_run(machine: Machine, tmp_path: Path) -> None:
    """The fake's terms pull alike for long, so a controller finds the weight at which its share is the wanted one."""
    log = Log()
    plan = controlled(Control(share=0.2, every=2), weight=500.0, noise=0.0)
    recipe = make_recipe(steps=20, schedule=Schedule(name="constant"), ema=None)
    fit(plan, loader, recipe, **arguments(tmp_path, total_steps=20, device=machine, hooks=(log,), evaluate=None))
    assert log.events[0].step == 2
    assert log.events[0].changes[0].before == 500.0
    assert log.events[0].changes[0].after == 50.0  # at most a factor of ten
    assert all(event.step % 2 == 0 and not event.calibrated for event in log.events)
    shares = [float(e.changes[0].reason.split("share was ")[1].split(" %")[0]) for e in log.events]
    assert shares[0] > 95
    assert min(abs(share - 20) for share in shares) < 8
    assert plan.weights["kd/neck"] == log.events[-1].changes[0].after


def test_share_of_parameters_is_read_from_the_whole_gradient(machine: Machine, tmp_path: Path) -> None:
    log = Log()
    plan = controlled(Control(share=0.5, of=("student.scale",), every="epoch", fallback=3.0, until=0.5), weight=2.0)
    recipe = make_recipe(clip_norm=None)
    fit(plan, loader, recipe, **arguments(tmp_path, device=machine, hooks=(log,), evaluate=None))
    assert [event.step for event in log.events] == [4, 8, 12]  # epochs of four steps
    assert log.events[-1].changes[0].after == 3.0  # the last epoch begins at step 8, behind half of the run


def test_a_subtracted_term_stays_subtracted(machine: Machine, tmp_path: Path) -> None:
    plan = controlled(Control(share=0.2, every=2), weight=-1e-3, noise=0.0)
    recipe = make_recipe(steps=4, schedule=Schedule(name="constant"), ema=None)
    fit(plan, loader, recipe, **arguments(tmp_path, total_steps=4, device=machine, evaluate=None))
    assert plan.weights["kd/neck"] < -1e-3


@pytest.mark.parametrize("of", [(), ("student.*",)], ids=["own", "parameters"])
def test_resumed_run_has_the_weights_of_the_whole_one(of: tuple[str, ...], machine: Machine, tmp_path: Path) -> None:
    control = Control(share=0.3, of=of, every=5)
    recipe, log = make_recipe(steps=14, checkpoint_every=3, log_every=1), Log()
    keys = {"total_steps": 14, "device": machine, "evaluate": None}
    fit(controlled(control), loader, recipe, **arguments(tmp_path / "a", hooks=(log,), **keys))
    fit(controlled(control), loader, recipe, **arguments(tmp_path / "b", hooks=(Log(8),), **keys))
    resumed, rest = controlled(control), Log()
    result = fit(resumed, loader, recipe, **arguments(tmp_path / "b", hooks=(rest,), **keys))
    assert result.resumed_from_step == 6  # inside an interval
    assert rest.events == log.events[1:]
    assert differences(read(tmp_path / "a" / LAST), read(tmp_path / "b" / LAST)) == []


def test_terms_without_control_have_no_controller() -> None:
    controls = Controls([FakeTerm("kd/neck", True)], {}, 4)
    assert controls.adjust(4, 8, {"kd/neck": 1.0}) == []
