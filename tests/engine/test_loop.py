from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from kdflow.engine import loop
from kdflow.engine.checkpoint import BEST, LAST, read
from kdflow.engine.machine import Machine, open_machine
from kdflow.engine.phases import lay_out
from kdflow.errors import UsageError
from kdflow.events import EvaluationEvent, RunEnded, RunStarted, Silent, StepEvent
from kdflow.experiment.teacher import best_student
from kdflow.ports import Batch
from kdflow.spec.bench import Optimizer, Schedule
from kdflow.spec.method import Phase
from tests.engine.fakes import (
    FakePlan,
    FakePreparation,
    TwoParameters,
    arguments,
    differences,
    fit,
    loader,
    make_batch,
    make_recipe,
)


def plain(**changes: Any) -> Any:
    return make_recipe(
        **{"optimizer": Optimizer(lr=0.1, momentum=0.9), "schedule": Schedule(name="constant"), "ema": None, **changes}
    )


def test_hooks_hear_four_moments_with_plain_numbers(machine: Machine, tmp_path: Path) -> None:
    class Log(Silent):
        def __init__(self) -> None:
            self.events: list[Any] = []

        def run_started(self, event: RunStarted) -> None:
            self.events.append(event)

        def step_ended(self, event: StepEvent) -> None:
            self.events.append(event)

        def evaluation_ended(self, event: EvaluationEvent) -> None:
            self.events.append(event)

        def run_ended(self, event: RunEnded) -> None:
            self.events.append(event)

    log = Log()
    result = fit(FakePlan(), loader, make_recipe(), **arguments(tmp_path, device=machine, hooks=(log,)))
    kinds = [type(e).__name__ for e in log.events]
    assert [k for k in kinds if k != "RunStarted"] == [
        "StepEvent", "EvaluationEvent", "StepEvent", "StepEvent", "EvaluationEvent", "StepEvent", "EvaluationEvent", "RunEnded",
    ]
    assert kinds[0] == "RunStarted"
    started = log.events[0]
    assert (started.total_steps, started.resumed_from_step, started.terms) == (12, 0, ("det/loss", "kd/neck"))
    steps = [e for e in log.events if isinstance(e, StepEvent)]
    assert [e.step for e in steps] == [3, 6, 9, 12]
    assert steps == list(result.history)
    for event in steps:
        assert set(event.raw) == set(event.weighted) == {"det/loss", "kd/neck"}
        assert event.total == pytest.approx(sum(event.weighted.values()), rel=1e-5)
        assert event.step_time > 0
        assert event.images_per_second == pytest.approx(4 / event.step_time)
    assert steps[-1].raw["kd/neck"] > steps[-1].weighted["kd/neck"] > 0  # scheduled down
    assert log.events[-1] == RunEnded("finished", 12)


def test_reported_value_is_the_mean_since_the_last_report(machine: Machine, tmp_path: Path) -> None:
    one = fit(FakePlan(), loader, plain(log_every=1), **arguments(tmp_path / "a", device=machine))
    three = fit(FakePlan(), loader, plain(log_every=3), **arguments(tmp_path / "b", device=machine))
    expected = sum(e.total for e in one.history[3:6]) / 3
    assert three.history[1].total == pytest.approx(expected, rel=1e-6)


def test_learning_rate_reported_is_the_one_used(machine: Machine, tmp_path: Path) -> None:
    recipe = plain(log_every=1, schedule=Schedule(name="linear"))
    result = fit(FakePlan(), loader, recipe, **arguments(tmp_path, device=machine))
    assert [e.lr for e in result.history] == pytest.approx([0.1 * (1 - step / 12) for step in range(12)])


def test_training_learns(machine: Machine, tmp_path: Path) -> None:
    result = fit(FakePlan(noise=0), loader, plain(steps=60), **arguments(tmp_path, device=machine, total_steps=60))
    assert result.history[-1].raw["det/loss"] < 0.5 * result.history[0].raw["det/loss"]


class Still(nn.Module):
    """The fake plan's contract without BatchNorm and noise, so that gradients of parts add up to the whole's."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = FakePlan(noise=0)
        self.plan.student.norm = nn.Identity()


def test_accumulation_equals_the_big_batch(machine: Machine, tmp_path: Path) -> None:
    def halves(first: int) -> Iterator[Batch]:
        index = first
        while True:
            whole, part = make_batch(index // 2), slice(2 * (index % 2), 2 * (index % 2) + 2)
            yield Batch(whole.images[part], whole.image_sizes[part], whole.boxes[part], whole.labels[part])
            index += 1

    big, small = Still().plan, Still().plan
    fit(big, loader, plain(), **arguments(tmp_path / "big", device=machine, passes=None))
    fit(small, halves, plain(accumulate=2, batch=2), **arguments(tmp_path / "small", device=machine, passes=None))
    assert len(small.advanced) == 24
    assert small.advanced[:3] == [(0, 0), (0, 1), (1, 0)]  # passes of one step draw different numbers
    torch.testing.assert_close(small.state_dict(), big.state_dict(), rtol=1e-5, atol=1e-6)


def test_accumulated_run_resumes_at_the_right_batch(machine: Machine, tmp_path: Path) -> None:
    positions: list[int] = []

    def watched(first: int) -> Iterator[Batch]:
        positions.append(first)
        return loader(first)

    keys = arguments(tmp_path, device=machine)
    fit(FakePlan(), watched, plain(accumulate=3), **{**keys, "total_steps": 8})
    fit(FakePlan(), watched, plain(accumulate=3), **{**keys, "total_steps": 12})
    assert positions == [0, 24]


def test_gradient_is_clipped_to_the_norm(machine: Machine, tmp_path: Path) -> None:
    recipe = plain(clip_norm=1e-3, optimizer=Optimizer(lr=1.0, momentum=0, weight_decay=0), log_every=1)
    before, plan = FakePlan(), FakePlan()
    fit(plan, loader, recipe, **arguments(tmp_path, device=machine, total_steps=1, evaluate=None))
    moved = torch.cat([(a - b).flatten() for a, b in zip(plan.parameters(), before.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_evaluation_does_not_change_the_training(machine: Machine, tmp_path: Path) -> None:
    often, never = FakePlan(), FakePlan()
    fit(often, loader, make_recipe(evaluate_every=1), **arguments(tmp_path / "a", device=machine))
    fit(never, loader, make_recipe(evaluate_every=None), **arguments(tmp_path / "b", device=machine, evaluate=None))
    assert differences(often.state_dict(), never.state_dict()) == []


def test_average_is_what_is_evaluated_and_kept_as_best(machine: Machine, tmp_path: Path) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def evaluate(plan: FakePlan) -> dict[str, float]:
        seen.append({k: v.clone() for k, v in plan.student.state_dict().items()})
        return {"AP": float(len(seen))}

    plan = FakePlan()
    fit(plan, loader, make_recipe(), **arguments(tmp_path, device=machine, evaluate=evaluate))
    state, best = read(tmp_path / LAST), read(tmp_path / BEST)
    assert differences(seen[-1], state["average"]["values"]) == []
    assert differences(best["student"], seen[-1]) == []
    assert differences(dict(plan.student.state_dict()), seen[-1]) != []
    assert (best["metric"], best["value"], best["step"]) == ("AP", 3.0, 12)


def test_best_student_is_of_the_best_evaluation(machine: Machine, tmp_path: Path) -> None:
    values = iter([1.0, 5.0, 5.0, 2.0])
    result = fit(
        FakePlan(), loader, make_recipe(evaluate_every=3),
        **arguments(tmp_path, device=machine, evaluate=lambda plan: {"AP50": next(values)}, metric="AP50"),
    )
    assert result.best == {"metric": "AP50", "value": 5.0, "step": 6}
    assert [e.is_best for e in result.evaluations] == [True, True, False, False]
    assert read(tmp_path / BEST)["step"] == 6
    assert result.metrics == {"AP50": 2.0}


def test_what_the_best_student_predicts_through_is_kept_with_it(machine: Machine, tmp_path: Path) -> None:
    """The adapter of the best evaluation, not of the last."""
    plan, seen = FakePlan(), []

    def evaluate(own: FakePlan) -> dict[str, float]:
        seen.append({k: v.clone() for k, v in own.ops.state_dict(prefix="ops.").items()})
        return {"AP": -float(len(seen))}

    fit(plan, loader, make_recipe(evaluate_every=3), **arguments(tmp_path, device=machine, evaluate=evaluate, kept=("ops.",)))
    assert differences(read(tmp_path / BEST)["beside"], seen[0]) == []
    assert differences(seen[0], seen[-1]) != []
    fresh = TwoParameters()
    again = FakePlan()
    best_student(tmp_path, SimpleNamespace(model=fresh), again)
    assert differences(again.ops.state_dict(prefix="ops."), seen[0]) == []


def test_unknown_metric_is_refused_with_choices(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='the evaluation gave no "AP5"'):
        fit(FakePlan(), loader, make_recipe(), **arguments(tmp_path, device=machine, metric="AP5"))


def test_loader_that_ends_is_refused(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ended at step 2"):
        fit(FakePlan(), lambda first: [make_batch(0), make_batch(1)], plain(), **arguments(tmp_path, device=machine))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_keeps_boxes_whole_and_resumes(precision: str, machine: Machine, tmp_path: Path) -> None:
    kinds: set[torch.dtype] = set()

    class Looking(FakePlan):
        def forward(self, batch: Batch) -> Any:
            kinds.update({batch.images.dtype, batch.boxes[0].dtype})
            kinds.add((self.ops["aligned"](torch.ones(1, 1))).dtype)
            return super().forward(batch)

    recipe = make_recipe(precision=precision, checkpoint_every=4, optimizer=Optimizer(lr=0.05))
    fit(Looking(), loader, recipe, **arguments(tmp_path / "a", device=machine))
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert kinds == {torch.float32, low}

    class Doomed(FakePlan):
        def forward(self, batch: Batch) -> Any:
            if self.advanced[-1][0] == 9:
                raise KeyboardInterrupt
            return super().forward(batch)

    with pytest.raises(KeyboardInterrupt):
        fit(Doomed(), loader, recipe, **arguments(tmp_path / "b", device=machine))
    result = fit(FakePlan(), loader, recipe, **arguments(tmp_path / "b", device=machine))
    assert result.resumed_from_step == 8
    state = read(tmp_path / "b" / LAST)
    assert differences(state, read(tmp_path / "a" / LAST)) == []
    assert ("scale" in state["scaler"]) is (precision == "fp16")


def test_overflow_in_fp16_skips_the_step_and_is_no_fault(machine: Machine, tmp_path: Path) -> None:
    class Huge(FakePlan):
        def forward(self, batch: Batch) -> Any:
            outcome = super().forward(batch)
            if self.advanced[-1][0] == 0:
                big = outcome.raw["det/loss"] * 1e36  # finite, but not times the loss scale
                return type(outcome)(big, outcome.raw, outcome.weighted)
            return outcome

    result = fit(Huge(), loader, make_recipe(precision="fp16"), **arguments(tmp_path, device=machine))
    assert result.status == "finished"
    assert read(tmp_path / LAST)["scaler"]["scale"] == 2.0**15  # halved once


def test_frozen_norms_keep_their_statistics(machine: Machine, tmp_path: Path) -> None:
    plan = FakePlan()
    fit(plan, loader, make_recipe(norms="frozen"), **arguments(tmp_path, device=machine))
    assert plan.student.norm.running_mean.item() == 0.0
    assert plan.student.norm.num_batches_tracked.item() == 0


def test_phases_train_what_they_name_and_enter_in_order(machine: Machine, tmp_path: Path) -> None:
    class Tracked(FakePlan):
        def forward(self, batch: Batch) -> Any:
            moments.append((self.phase, self.student.scale.item(), self.ops["aligned"].weight.item()))
            return super().forward(batch)

    moments: list[tuple[str, float, float]] = []
    plan = Tracked()
    phases = (Phase(name="adapter", steps=0.5, train=("ops.*",)), Phase(name="student", steps=0.5, train=("scale",)))
    result = fit(plan, loader, make_recipe(), **arguments(tmp_path, device=machine, phases=phases))
    adapter = [m for m in moments if m[0] == "adapter"]
    student = [m for m in moments if m[0] == "student"]
    assert (len(adapter), len(student)) == (6, 6)
    assert len({m[1] for m in adapter}) == 1
    assert len({m[2] for m in adapter}) > 1
    assert len({m[1] for m in student}) > 1
    assert len({m[2] for m in student}) == 1
    assert plan.student.shift.item() == pytest.approx(0.1)
    assert plan.entered == ["adapter", "student"]
    assert [e.step for e in result.evaluations] == [10, 12]  # not at 5: the student did not train
    assert [e.phase for e in result.history] == ["adapter", "adapter", "student", "student"]


def test_phase_pattern_that_fits_nothing_is_refused(machine: Machine, tmp_path: Path) -> None:
    phases = (Phase(name="a", steps=1.0, train=("op.*",)),)
    with pytest.raises(UsageError, match=r'phases\.a\.train: "op\.\*" fits no parameter\. Did you mean'):
        fit(FakePlan(), loader, make_recipe(), **arguments(tmp_path, device=machine, phases=phases))


def test_phases_must_add_up_to_the_run() -> None:
    thirds = [Phase(name=n, steps=1 / 3) for n in "abc"]
    assert [(p.start, p.end) for p in lay_out(thirds, 10)] == [(0, 3), (3, 6), (6, 10)]
    with pytest.raises(UsageError, match="a 30, b 30 do not add up to the run's 100 steps"):
        lay_out([Phase(name="a", steps=30), Phase(name="b", steps=30)], 100)


def test_preparations_run_when_they_say(machine: Machine, tmp_path: Path) -> None:
    once, each = FakePreparation("once", "start"), FakePreparation("each", "epoch")
    plan = FakePlan(preparations=(once, each))
    fit(plan, loader, make_recipe(), **arguments(tmp_path, device=machine))
    assert (len(once.runs), len(each.runs)) == (1, 3)
    assert read(tmp_path / LAST)["prepared"] == {"once": 0, "each": 2}


def test_preparation_draws_from_its_own_address(machine: Machine, tmp_path: Path) -> None:
    def drawing(first: int) -> Iterator[Batch]:
        for batch in loader(first):
            torch.rand(2)
            yield batch

    prototypes = []
    for name, stream in (("a", loader), ("b", drawing)):
        plan = FakePlan(preparations=(FakePreparation("each", "epoch"),))
        fit(plan, stream, make_recipe(), **arguments(tmp_path / name, device=machine))
        prototypes.append(plan.prototype.item())
    assert prototypes[0] == prototypes[1]


def test_preparation_without_data_is_refused(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='preparation "once" goes over the data'):
        fit(
            FakePlan(preparations=(FakePreparation("once"),)), loader, make_recipe(),
            **arguments(tmp_path, device=machine, passes=None),
        )


def test_unknown_device_is_refused() -> None:
    with pytest.raises(UsageError, match='no device "cuda:3"'), open_machine("cuda:3"):
        pass


def test_deterministic_algorithms_hold_only_inside() -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    with open_machine("cpu", deterministic=True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


def test_importing_the_engine_imports_no_listener_and_no_fabric() -> None:
    """Fabric costs seconds, and hooks are the only way to MLflow, Optuna and progress bars."""
    sources = sorted(Path(loop.__file__).parent.glob("*.py"))
    assert len(sources) > 10
    for source in sources:
        tree = ast.parse(source.read_text(encoding="utf-8"))
        top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {a.name for n in top if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module or "" for n in top if isinstance(n, ast.ImportFrom)}
        packages = {name.split(".")[0] for name in names}
        assert packages.isdisjoint({"lightning_fabric", "mlflow", "optuna", "rich", "pycocotools"}), source.name
        assert not [n for n in names if n.startswith(("kdflow.graph", "kdflow.detectors", "kdflow.data"))], source.name
