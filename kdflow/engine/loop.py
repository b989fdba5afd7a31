"""Training: one loop for every method, every detector and every teacher."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdflow.engine import ranks
from kdflow.engine.interruption import Interruption
from kdflow.engine.machine import Machine, open_machine
from kdflow.engine.protocols import Loader, Metrics
from kdflow.engine.randomness import seed_generators
from kdflow.engine.run import Fit, Run
from kdflow.engine.training import Training
from kdflow.events import EvaluationEvent, Pull, RunEnded, StepEvent, StopRun

INTERRUPTED = "SIGTERM; the run can be resumed"


@dataclass(frozen=True)
class FitResult:
    """How a run ended.

    Attributes:
        status: ``finished``, ``interrupted`` (SIGTERM; fit again with ``resume`` to go on), ``stopped`` (by a hook), or
            ``failed`` (one of several that train together; alone, the error is raised).
        reason: Words for all but the first.
        step: Optimizer steps done.
        resumed_from_step: Steps taken over from a checkpoint, 0 for a fresh run.
        best: ``metric``, ``value`` and ``step`` of the best evaluation; empty without one.
        metrics: Metrics of the last evaluation.
        history: Reported steps, each once, those before a resume included.
        evaluations: Evaluations, likewise.
        unproven: Distillation terms not seen alive, because the run was short or their groups were empty.
        notes: What was guaranteed and what was passed over, in words.
        folder: Where ``last.pt`` and ``best.pt`` lie.
        pulls: How hard each term pulled at the student when the run began, by name.
    """

    status: str
    reason: str
    step: int
    resumed_from_step: int
    best: Mapping[str, Any]
    metrics: Metrics
    history: tuple[StepEvent, ...]
    evaluations: tuple[EvaluationEvent, ...]
    unproven: tuple[str, ...]
    notes: tuple[str, ...]
    folder: Path
    pulls: Mapping[str, Pull] = field(default_factory=dict)


def fit(
    asked: Fit, loader: Loader, *, resume: bool = True, device: str | Machine = "auto", deterministic: bool = False
) -> FitResult:
    """Train a plan on the batches of ``loader``.

    Args:
        asked: What is trained, how, and who listens.
        loader: ``loader(k)`` gives batches k, k+1, ... without end; one step takes ``recipe.accumulate`` of them.
        resume: Continue from the folder's checkpoint if there is one; False deletes what is there.
        device: ``auto``, ``cpu``, ``cuda``, or a machine that is open already.
        deterministic: Deterministic algorithms (an open machine was asked when it was opened).

    Raises:
        InvariantError: Training silently went wrong; names the term, module or parameter.
        UsageError: A checkpoint of another run, patterns that fit nothing, an unknown metric or device.
    """
    with ExitStack() as stack:
        machine = device if isinstance(device, Machine) else stack.enter_context(open_machine(device, deterministic))
        run = Run.open(asked, loader, machine, stack.enter_context(Interruption()), resume)
        begin(run, resume)
        run.training.open(loader)
        return result_of(run, _carry_out(run))


def train(run: Run) -> RunEnded:
    """At every step: first what is due there, then the step itself."""
    training = run.training
    while not run.interrupted():
        if not ready(run):
            return RunEnded("finished", training.step)
        with run.timed():
            train_step(training)
        run.report_if_due()
    run.save()
    run.checkpoints.finish()
    return RunEnded("interrupted", training.step, INTERRUPTED)


def ready(run: Run) -> bool:
    """Do what is due between two steps; False when there is no further step."""
    training = run.training
    run.evaluate_if_due()
    run.save_if_due()
    if training.step == training.total_steps:
        run.checkpoints.finish()
        return False
    if training.step == training.phase.end:
        run.measure_teachers()
        training.enter(training.at + 1)
    run.prepare_if_due()
    run.calibrate_if_due()
    return True


def train_step(training: Training) -> None:
    """One optimizer step: the mean gradient of ``accumulate`` batches."""
    session, recipe = training.session, training.recipe
    for part in range(recipe.accumulate):
        batch = training.next_batch()
        training.advance(part)
        with session.last_pass(part == recipe.accumulate - 1):
            outcome = session.forward(batch)
            training.watch(outcome)
            session.backward(outcome.total / recipe.accumulate)
    training.watch_reach()
    training.controls.read(training.parameters, training.plan.resting)
    if recipe.clip_norm is not None:
        training.watch_gradient(session.clip(recipe.clip_norm))
    session.step()
    training.advance_schedule()
    if training.average is not None:
        training.average.update()
    training.step += 1
    training.change(training.controls.adjust(training.step, training.total_steps, training.plan.weights))


def begin(run: Run, resume: bool) -> None:
    """Start afresh, or where the last whole checkpoint left off."""
    training = run.training
    if not resume and training.machine.is_first:
        run.checkpoints.clear()
    ranks.wait()
    training.machine.count_memory()
    found = run.checkpoints.load()
    if found is None:
        seed_generators("run", training.seed, training.machine.rank)
        training.enter(0)
        run.inspect()
        return
    run.resume(found)


def _carry_out(run: Run) -> RunEnded:
    """Train, and tell the hooks how it ended, whatever happened."""
    try:
        with ranks.links():
            run.tell_start()
            ended = train(run)
    except StopRun as stop:
        ended = RunEnded("stopped", run.training.step, str(stop))
    except KeyboardInterrupt:
        run.tell_end(RunEnded("interrupted", run.training.step, "stopped at the keyboard"))
        raise
    except BaseException as fault:
        run.tell_end(RunEnded("failed", run.training.step, str(fault) or type(fault).__name__))
        raise
    run.tell_end(ended)
    return ended


def result_of(run: Run, ended: RunEnded) -> FitResult:
    """What is known of a run that is over."""
    steps, evaluations = run.journal.steps, run.journal.evaluations
    done = tuple(evaluations[step] for step in sorted(evaluations) if step <= ended.step)
    return FitResult(
        status=ended.status, reason=ended.reason, step=ended.step, resumed_from_step=run.resumed_from,
        best=dict(run.training.best), metrics=dict(done[-1].metrics) if done else {},
        history=tuple(steps[step] for step in sorted(steps) if step <= ended.step), evaluations=done,
        unproven=run.training.life.unproven, notes=(*run.notes, *run.training.teachers.notes),
        folder=run.checkpoints.folder, pulls=dict(run.training.pulls),
    )
