"""How hard terms pull: against gradients taken by hand, told once, and without a trace in the training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from kdflow.engine.checkpoint import LAST, read
from kdflow.engine.machine import Machine
from kdflow.engine.pull import PullWatch, Scale
from kdflow.events import Pull, PullEvent, Silent, StepEvent, StopRun
from tests.engine.fakes import (
    FakeOutcome,
    FakePlan,
    FakeTerm,
    arguments,
    differences,
    fit,
    loader,
    make_batch,
    make_recipe,
)

EVEN = {"det/loss": 1.0}


class Log(Silent):
    def __init__(self) -> None:
        self.events: list[PullEvent] = []

    def pulls_known(self, event: PullEvent) -> None:
        self.events.append(event)


def three_parameters() -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
    """Of a backbone, a head, and an adapter's neighbour that only the term reaches."""
    return nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([5.0])), nn.Parameter(torch.tensor([7.0]))


def outcome_of(det: torch.Tensor, kd: torch.Tensor) -> FakeOutcome:
    return FakeOutcome(det + kd, {"det/loss": det, "kd/neck": kd}, {"det/loss": det, "kd/neck": kd})


def test_pull_is_the_ratio_of_norms_where_both_reach() -> None:
    backbone, head, lone = three_parameters()
    # gradients in the backbone: det (3, 4), norm 5; kd (0, 30), norm 30. The head's 100 and the lone 1000 do not count.
    det = (backbone * torch.tensor([3.0, 4.0])).sum() + 100 * head.sum()
    kd = 30 * backbone[1] + 1000 * lone.sum()
    scale = Scale(["kd/neck"])
    scale.add(outcome_of(det, kd), EVEN, [backbone, head, lone])
    assert scale.per_weight() == {"kd/neck": pytest.approx(6.0)}


def test_norms_are_averaged_before_they_are_divided_and_batches_without_gradient_do_not_count() -> None:
    backbone, head, _ = three_parameters()
    scale = Scale(["kd/neck"])
    for det, kd in ((1.0, 2.0), (3.0, 10.0), (50.0, 0.0), (1.0, float("inf"))):
        scale.add(outcome_of(det * backbone[0], kd * backbone[0]), EVEN, [backbone, head])
    assert scale.per_weight() == {"kd/neck": pytest.approx(3.0)}


def test_a_term_that_reaches_nothing_of_what_the_detector_trains_has_no_pull() -> None:
    backbone, head, lone = three_parameters()
    scale = Scale(["kd/neck", "kd/other"])
    scale.add(outcome_of(head.sum(), lone.sum() + backbone.sum()), EVEN, [backbone, head, lone])
    assert scale.per_weight() == {}


def test_looking_leaves_gradients_alone() -> None:
    backbone, head, _ = three_parameters()
    outcome = outcome_of(backbone.square().sum(), 2 * backbone.sum())
    Scale(["kd/neck"]).add(outcome, EVEN, [backbone, head])
    assert backbone.grad is None
    outcome.total.backward()
    assert backbone.grad.tolist() == [4.0, 6.0]


@pytest.mark.parametrize(
    ("pull", "words"),
    [
        (Pull("kd/neck", 12.6, 421.3), "kd/neck pulls 421 x as hard as the detector's losses; weight 0.03 would give 1 x"),
        (Pull("kd/neck", -2.0, 0.01), "kd/neck pulls 0.01 x as hard as the detector's losses; weight 2e+02 would give 1 x"),
        (Pull("kd/neck", 3.0, 1.2), "kd/neck pulls 1.2 x as hard as the detector's losses"),
    ],
)
def test_words(pull: Pull, words: str) -> None:
    assert str(pull) == words


def test_run_tells_each_pull_once_after_twenty_steps(machine: Machine, tmp_path: Path) -> None:
    log = Log()
    result = fit(
        FakePlan(), loader, make_recipe(steps=30), **arguments(tmp_path, total_steps=30, device=machine, hooks=(log,))
    )
    assert [event.step for event in log.events] == [20]
    (pull,) = log.events[0].pulls
    assert pull.term == "kd/neck"
    assert result.pulls == {"kd/neck": pull}


def test_pull_counts_the_weight_and_not_the_schedule(machine: Machine, tmp_path: Path) -> None:
    class Late(FakePlan):
        def advance(self, step: int, total_steps: int, steps_per_epoch: int, part: int = 0) -> None:
            super().advance(step, total_steps, steps_per_epoch, part)
            self.weight.mul_(0.1)  # a warm-up

    plan, by_hand, log = Late(noise=0.0), FakePlan(noise=0.0), Log()
    plan.weights["kd/neck"] = 8.0
    fit(plan, loader, make_recipe(steps=1), **arguments(tmp_path, total_steps=1, device=machine, hooks=(log,), evaluate=None))
    by_hand.train().advance(0, 1, 4)
    outcome = by_hand(make_batch(0))
    parameters = list(by_hand.student.parameters())
    kd = torch.cat(torch.autograd.grad(outcome.raw["kd/neck"], parameters, retain_graph=True))
    det = torch.cat(torch.autograd.grad(outcome.raw["det/loss"], parameters))
    (pull,) = log.events[0].pulls
    assert (pull.weight, pull.pull) == (8.0, pytest.approx(float(8 * kd.norm() / det.norm())))


def test_terms_that_train_no_student_and_runs_without_own_losses_have_nothing_to_compare() -> None:
    own, kd = FakeTerm("det/loss"), FakeTerm("kd/neck", True)
    assert PullWatch([own, replace(kd, auxiliary=True)], 100).tell(50, {}) == ()
    assert PullWatch([kd], 100).told
    assert not PullWatch([own, kd], 100).told


def test_resumed_run_tells_what_the_whole_run_tells(machine: Machine, tmp_path: Path) -> None:
    class Stop(Log):
        def step_ended(self, event: StepEvent) -> None:
            if event.step == 15:
                raise StopRun("enough")

    recipe, whole, first, rest = make_recipe(steps=30, checkpoint_every=5), Log(), Stop(), Log()
    keys = {"total_steps": 30, "device": machine}
    fit(FakePlan(), loader, recipe, **arguments(tmp_path / "a", hooks=(whole,), **keys))
    fit(FakePlan(), loader, recipe, **arguments(tmp_path / "b", hooks=(first,), **keys))
    result = fit(FakePlan(), loader, recipe, **arguments(tmp_path / "b", hooks=(rest,), **keys))
    assert result.resumed_from_step > 0
    assert first.events == []
    assert rest.events == whole.events
    assert differences(read(tmp_path / "a" / LAST), read(tmp_path / "b" / LAST)) == []
