from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from kdflow.errors import InvariantError
from kdflow.events import EvaluationEvent, RunStarted, StopRun
from kdflow.search.objective import PruneHook
from kdflow.search.queue import Queue, open_storage
from kdflow.search.worker import BrokenDeviceError, Drawn, InterruptedTrialError, Judged, Worker


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(f"sqlite:///{tmp_path / 's.db'}")
    study = optuna.create_study(study_name="s", storage=storage, direction="maximize")
    queue = Queue(study, storage, 4, "here")
    queue.fill()
    return queue


def worker(queue: Queue, objective: Any, **options: Any) -> Worker:
    return Worker(queue, objective, lambda number: RandomSampler(seed=number), notify=lambda _: None, **options)


def test_failures_are_recorded_with_their_reason_and_do_not_end_the_study(queue: Queue) -> None:
    problems: dict[int, Any] = {
        0: RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        1: InvariantError("kd/neck", "not finite at step 3"),
        2: float("nan"),
    }

    def objective(trial: optuna.Trial) -> Judged:
        problem = problems.get(trial.number, 1.5)
        if isinstance(problem, Exception):
            raise problem
        return Judged([problem])

    assert worker(queue, objective).work()
    reasons = [t.user_attrs["reason"] for t in queue.trials(TrialState.FAIL)]
    assert reasons[0].startswith("out of memory: ")
    assert reasons[1:] == ["invariant: kd/neck: not finite at step 3", "not finite: nan"]
    assert [t.value for t in queue.trials(TrialState.COMPLETE)] == [1.5]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, InterruptedTrialError])
def test_interruption_returns_the_trial_to_the_queue_and_a_later_worker_finishes_it(queue: Queue, stop: Any) -> None:
    seen: list[int] = []

    def objective(trial: optuna.Trial) -> Judged:
        seen.append(trial.number)
        trial.suggest_float("x", 0, 1)
        if seen == [0, 1]:
            raise stop("now")
        return Judged([1.0])

    with pytest.raises(stop):
        worker(queue, objective).work()
    assert queue.finished == 1
    assert worker(queue, objective).work()
    assert seen == [0, 1, 1, 2, 3]
    assert len(queue.study.get_trials()) == 4


def test_broken_device_fails_the_trial_and_ends_the_worker(queue: Queue) -> None:
    def objective(trial: optuna.Trial) -> Judged:
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(BrokenDeviceError, match="--resume"):
        worker(queue, objective).work()
    assert [t.state for t in queue.trials()].count(TrialState.FAIL) == 1
    assert queue.finished == 1


def test_no_trial_begins_after_the_deadline(queue: Queue) -> None:
    assert not worker(queue, lambda _: Judged([1.0]), deadline=time.monotonic() - 1).work()
    assert queue.finished == 0


def test_pruned_trials_count_as_finished_and_keep_their_reason(queue: Queue) -> None:
    assert worker(queue, lambda _: Judged(None, "pruned at step 2")).work()
    assert {t.state for t in queue.trials()} == {TrialState.PRUNED}
    assert queue.trials()[0].user_attrs["reason"] == "pruned at step 2"


class Trio:
    """Carries out trials at a time: the first is fine, the second fails, the third is asked to end when it is new."""

    def __init__(self) -> None:
        self.seen: list[list[tuple[int, bool]]] = []

    def draw(self, trial: optuna.Trial) -> Drawn:
        again = bool(trial.params)
        return Drawn(trial, {"x": trial.suggest_float("x", 0, 1)}, again)

    def side_by_side(self, drawn: Sequence[Drawn]) -> list[Judged | Exception]:
        self.seen.append([(one.trial.number, one.again) for one in drawn])
        third: Any = Judged([3.0]) if drawn[-1].again else InterruptedTrialError("asked to end")
        return [Judged([1.0]), InvariantError("kd/neck", "not finite"), third][-len(drawn) :]


def test_trials_of_a_group_end_each_in_its_own_way(queue: Queue) -> None:
    group = Trio()
    with pytest.raises(InterruptedTrialError):
        worker(queue, lambda _: Judged([9.0]), group=group, together=3).work()
    states = [t.state for t in queue.trials()]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.WAITING, TrialState.WAITING]
    values = queue.trials()[2].params
    assert worker(queue, lambda _: Judged([9.0]), group=group, together=1).work(), "one at a time is no group"
    assert group.seen == [[(0, False), (1, False), (2, False)]]
    assert queue.trials()[2].params == values


def test_a_broken_device_fails_the_whole_group_and_a_key_press_puts_it_back(queue: Queue) -> None:
    class Broken(Trio):
        error: BaseException = KeyboardInterrupt()

        def side_by_side(self, drawn: Sequence[Drawn]) -> list[Judged | Exception]:
            raise self.error

    group = Broken()
    with pytest.raises(KeyboardInterrupt):
        worker(queue, None, group=group, together=2).work()
    assert [t.state for t in queue.trials()] == [TrialState.WAITING] * 4
    group.error = RuntimeError("CUDA error: an illegal memory access")
    with pytest.raises(BrokenDeviceError):
        worker(queue, None, group=group, together=2).work()
    assert [t.state for t in queue.trials()] == [TrialState.FAIL] * 2 + [TrialState.WAITING] * 2


def _evaluated(hook: PruneHook, step: int, value: float) -> None:
    hook.evaluation_ended(EvaluationEvent(step, {"AP": value}, "AP", value, is_best=True))


def test_hook_stops_a_hopeless_run_but_never_at_its_last_evaluation(queue: Queue) -> None:
    queue.study.pruner = optuna.pruners.ThresholdPruner(lower=10.0)
    number = queue.claim()
    assert number == 0
    hook = PruneHook(queue.trial(0), "AP")
    hook.run_started(RunStarted(Path(), 30, 0, "cpu", 1, ()))
    _evaluated(hook, 10, 12.0)
    _evaluated(hook, 10, 13.0)  # repeated after a resume: reported once
    with pytest.raises(StopRun, match=r"pruned at step 20 of 30, AP 3\.00"):
        _evaluated(hook, 20, 3.0)
    _evaluated(hook, 30, 3.0)
    assert queue.trials()[0].intermediate_values == {10: 12.0, 20: 3.0, 30: 3.0}


def test_what_was_taken_from_this_worker_and_waits_again_is_finished_by_it(queue: Queue) -> None:
    def slow(trial: optuna.Trial) -> Judged:
        if trial.number == 0:
            queue.put_back(0)
        return Judged([1.0])

    slow_one = worker(queue, slow)
    assert slow_one.work()
    assert slow_one.mine == [0, 1, 2, 3]


def test_what_another_worker_finished_meanwhile_counts(queue: Queue) -> None:
    """This one was silent for too long, so its trial went to another worker, who was faster."""
    said: list[str] = []

    def slow(trial: optuna.Trial) -> Judged:
        if trial.number == 0:
            queue.study.tell(0, 3.0)
        return Judged([1.0], facts={"found": "late"})

    late = Worker(queue, slow, lambda number: RandomSampler(seed=number), notify=said.append)
    assert late.work()
    assert [trial.value for trial in queue.trials()] == [3.0, 1.0, 1.0, 1.0]
    assert "found" not in queue.trials()[0].user_attrs
    assert late.mine == [1, 2, 3]
    assert "trial 0: another worker finished it meanwhile; that result counts" in said
