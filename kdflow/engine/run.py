"""What surrounds the steps of a run: reports, evaluations, preparations, checkpoints, each when it is due."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kdflow.engine import ranks
from kdflow.engine.calibrate import aside, calibrate
from kdflow.engine.checkpoint import Checkpoints, Found, Writer
from kdflow.engine.interruption import Interruption
from kdflow.engine.journal import Journal
from kdflow.engine.listeners import give_back, states
from kdflow.engine.machine import Machine
from kdflow.engine.phases import lay_out
from kdflow.engine.protocols import Loader, Metrics, Passes, Plan, Preparation
from kdflow.engine.randomness import generators_untouched
from kdflow.engine.training import Training
from kdflow.errors import UsageError, choices
from kdflow.events import EvaluationEvent, Hook, PullEvent, RunEnded, RunStarted, StepEvent, StopRun, WeightEvent
from kdflow.ports import Batch
from kdflow.spec import method
from kdflow.spec.bench import Recipe

INSPECTED = 1
"""Batches that a run's values are looked at on before its first step."""
FLAG_EVERY = 20
"""Several processes agree on an interruption at least this often, in steps; each agreement synchronises the device."""


@dataclass(frozen=True)
class Fit:
    """One training as it was asked for; it is carried out alone (:func:`kdflow.engine.loop.fit`) or beside others.

    Attributes:
        plan: Student, frozen teachers and terms; moved to the device and trained in place.
        recipe: Optimizer, schedule, precision and intervals.
        folder: Checkpoints and journal of this run and no other.
        total_steps: Optimizer steps of the whole run (the recipe may say epochs).
        steps_per_epoch: Optimizer steps in one pass over the data.
        seed: Seeds the generators of a fresh run.
        run_hash: Identity of the run; checkpoints of another one are refused.
        hooks: Listeners, called in the first process.
        evaluate: ``evaluate(plan) -> metrics``, with the averaged weights in place where the recipe keeps an average;
            called in every process, and the first one's result counts. None evaluates never.
        metric: Which metric chooses the best student, larger is better.
        phases: Declared phases; none trains everything throughout.
        passes: ``passes()`` gives one pass over the data, for the plan's preparations.
        measure: ``measure(owner) -> metrics`` of a teacher that a phase has trained, called when the phase ends; it raises
            InvariantError where the teacher is not worth learning from.
        subject: What learns, for the hooks' words, where it is not the run's own student.
        inspect: ``inspect(plan, batches) -> sentences`` about values that say nothing, asked before the first step of a
            fresh run.
    """

    plan: Plan
    recipe: Recipe
    folder: Path
    total_steps: int
    steps_per_epoch: int
    seed: int = 0
    run_hash: str = ""
    hooks: Sequence[Hook] = ()
    evaluate: Callable[[Any], Metrics] | None = None
    metric: str = "AP"
    phases: Sequence[method.Phase] = ()
    passes: Passes | None = None
    measure: Callable[[str], Metrics] | None = None
    subject: str = ""
    kept: tuple[str, ...] = ()
    inspect: Callable[[Any, Iterable[Batch]], Sequence[str]] | None = None


@dataclass
class Run:
    """A training with its folder, its listeners and its clock.

    Attributes:
        fit: What was asked for.
        training: What moves.
        checkpoints: Where it is saved.
        journal: What was reported.
        hooks: Who listens (first process only).
        interruption: SIGTERM's flag.
        loader: The training's batches, some of which calibration looks at.
        resumed_from: Steps taken over from a checkpoint.
        notes: Sentences for the log.
        busy: Seconds spent in steps since the last report.
        reported: Step of the last report.
        saved: Step and phase of the last checkpoint.
    """

    fit: Fit
    training: Training
    checkpoints: Checkpoints
    journal: Journal
    hooks: Sequence[Hook]
    interruption: Interruption
    loader: Loader
    resumed_from: int = 0
    notes: tuple[str, ...] = ()
    busy: float = 0.0
    reported: int = 0
    saved: tuple[int, int] = (0, 0)

    @classmethod
    def open(cls, fit: Fit, loader: Loader, machine: Machine, interruption: Interruption, resume: bool) -> Run:
        """A run before its first step, its plan on the machine.

        Raises:
            UsageError: Phases or patterns that fit nothing, a folder of another run, a hook whose state cannot be saved.
        """
        states(fit.hooks)
        phases = lay_out(fit.phases, fit.total_steps)
        return cls(
            fit,
            Training(fit.plan, fit.recipe, machine, phases, fit.steps_per_epoch, fit.seed),
            Checkpoints(fit.folder, fit.run_hash, machine.world_size, Writer(machine.is_gpu or fit.recipe.fast)),
            Journal(fit.folder, fit.run_hash, keep=resume, writes=machine.is_first),
            fit.hooks if machine.is_first else (),
            interruption,
            loader,
        )

    def resume(self, found: Found) -> None:
        """Go on from a checkpoint, with what the listeners remembered."""
        training = self.training
        training.resume(found.state)
        self.resumed_from = self.reported = training.step
        self.saved = (training.step, training.at)
        forgotten = give_back(self.hooks, found.state.get("hooks", {})) if training.machine.is_first else ()
        self.notes = (*found.notes, *forgotten, f"resumed_from_step {training.step}")

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Time inside counts as time of training."""
        start = time.perf_counter()
        yield
        self.busy += time.perf_counter() - start

    def tell_start(self) -> None:
        """First moment."""
        training = self.training
        event = RunStarted(
            self.checkpoints.folder, training.total_steps, self.resumed_from, str(training.machine.device),
            training.machine.world_size, tuple(t.name for t in training.plan.terms),
            (*self.notes, *training.teachers.notes), self.fit.subject,
        )
        for hook in self.hooks:
            hook.run_started(event)

    def tell_end(self, event: RunEnded) -> None:
        """Last moment; no file is being written any more."""
        self.checkpoints.settle()
        for hook in self.hooks:
            hook.run_ended(event)

    def interrupted(self) -> bool:
        """True in all processes when one of them was asked to end."""
        machine, step = self.training.machine, self.training.step
        if machine.world_size > 1 and step % min(self.training.recipe.log_every, FLAG_EVERY):
            return False
        return ranks.any_rank(self.interruption.asked, machine.device)

    def report_if_due(self) -> None:
        """Every ``log_every`` steps and at the end of a phase: check what must hold, then tell the hooks the means."""
        training = self.training
        self._tell_balance()
        if training.step % training.recipe.log_every and training.step != training.phase.end:
            return
        with self.timed():
            training.check()
            means = training.meter.means()
        steps = max(training.step - self.reported, 1)
        seconds = self.busy / steps
        event = StepEvent(
            training.step, training.total_steps, training.phase.name, means["total"], _group(means, "raw "),
            _group(means, "weighted "), training.lr, seconds,
            training.images * training.machine.world_size / self.busy if self.busy else 0.0,
            peak_memory=training.machine.peak_memory(),
        )
        self.busy, training.images, self.reported = 0.0, 0, training.step
        self._tell(event)

    def evaluate_if_due(self) -> None:
        """Every ``evaluate_every`` steps and at the end; the best student is kept."""
        if self.fit.evaluate is None or not self._evaluation_due():
            return
        training = self.training
        training.check(thorough=training.step == training.phase.end)
        average = training.average
        training.plan.eval()
        with torch.no_grad(), generators_untouched(), average.applied() if average else nullcontext():
            metrics = ranks.from_first({name: float(value) for name, value in self.fit.evaluate(training.plan).items()})
            event = self._judge(metrics)
            if event.is_best and training.machine.is_first:
                self.checkpoints.save_best({**training.best, **self._best_state()})
        training.training_mode()
        training.evaluated = training.step
        self._tell(event)

    def _best_state(self) -> dict[str, Any]:
        plan, kept = self.training.plan, self.fit.kept
        beside = {name: value for name, value in plan.state_dict().items() if name.startswith(kept)} if kept else {}
        return {"student": plan.student.state_dict(), "beside": beside}

    def measure_teachers(self) -> None:
        """At the end of a phase that trained teachers: each is measured before it teaches."""
        training, measure = self.training, self.fit.measure
        if measure is None:
            return
        for owner in sorted(training.teachers.learning):
            training.plan.eval()
            with torch.no_grad(), generators_untouched():
                metrics = ranks.from_first(dict(measure(owner)))
            words = ", ".join(f"{name} {metrics[name]:.1f}" for name in ("AP", "AP50") if name in metrics)
            self.notes = (*self.notes, f"{owner}: {words} % on the validation split after phase {training.phase.name}")

    def prepare_if_due(self) -> None:
        """Preparations at the start and at each epoch; a checkpoint follows, so that none is repeated after a kill."""
        due = [p for p in self.training.plan.preparations if self._preparation_due(p)]
        for preparation in due:
            self._prepare(preparation)
        if due:
            self.training.training_mode()
            self.save()

    def save_if_due(self) -> None:
        """Every ``checkpoint_every`` steps and at the end of a phase."""
        training = self.training
        due = training.step % training.recipe.checkpoint_every == 0 or training.step == training.phase.end
        if due and training.step and self.saved != (training.step, training.at):
            self.save()

    def save(self) -> None:
        """Write a checkpoint, of a sound state only."""
        training = self.training
        training.check(thorough=training.step == training.phase.end)
        state = {**training.state(), "hooks": states(self.hooks)}
        if training.machine.is_first:
            self.checkpoints.save(state)
        ranks.wait()
        self.saved = (training.step, training.at)

    def inspect(self) -> None:
        """Look once at what the terms compare, before the first step."""
        if self.fit.inspect is not None and any(term.is_distillation for term in self.training.plan.terms):
            with aside(self.training, self.loader, INSPECTED, "inspect") as batches:
                found = ranks.from_first(tuple(self.fit.inspect(self.training.plan, batches)))
            self.notes = (*self.notes, *found)

    def calibrate_if_due(self) -> None:
        """At the start, and where a phase brings terms whose weights are to be set: before its first step."""
        self.training.change(calibrate(self.training, self.loader))
        self._tell_weights(calibrated=True)

    def _tell_weights(self, calibrated: bool = False) -> None:
        changes, self.training.changes = tuple(self.training.changes), []
        for hook in self.hooks if changes else ():
            hook.weights_changed(WeightEvent(self.training.step, changes, calibrated))

    def _tell_balance(self) -> None:
        """Weights that have changed and, once in a phase, how hard each term pulls."""
        self._tell_weights()
        if pulls := self.training.pulls_known():
            for hook in self.hooks:
                hook.pulls_known(PullEvent(self.training.step, pulls))

    def _evaluation_due(self) -> bool:
        training, every = self.training, self.training.recipe.evaluate_every
        if training.step == training.evaluated or training.step == 0:
            return False
        regular = every is not None and training.step % every == 0 and training.trains_student
        return regular or training.step == training.total_steps

    def _judge(self, metrics: Metrics) -> EvaluationEvent:
        training = self.training
        if self.fit.metric not in metrics:
            raise UsageError(f'the evaluation gave no "{self.fit.metric}".{choices(self.fit.metric, metrics)}')
        value = metrics[self.fit.metric]
        is_best = not training.best or value > training.best["value"]
        if is_best:
            training.best = {"metric": self.fit.metric, "value": value, "step": training.step}
        return EvaluationEvent(training.step, metrics, self.fit.metric, value, is_best)

    def _preparation_due(self, preparation: Preparation) -> bool:
        done = self.training.prepared.get(preparation.name)
        return done is None or (preparation.every == "epoch" and done != self.training.epoch)

    def _prepare(self, preparation: Preparation) -> None:
        training = self.training
        if self.fit.passes is None:
            raise UsageError(f'preparation "{preparation.name}" goes over the data, and this run was given no pass of it')
        device = training.machine.device
        training.plan.eval()
        with generators_untouched(training.seed, preparation.name, training.epoch), torch.no_grad():
            preparation.run(training.plan, (batch.to(device) for batch in self.fit.passes()))
        training.prepared[preparation.name] = training.epoch

    def _tell(self, event: StepEvent | EvaluationEvent) -> None:
        """Journal first, then the hooks; when one of them stops the run, all processes stop."""
        event = replace(event, repeated=self.journal.knows(event))
        self.journal.add(event)
        reason: str | None = None
        try:
            for hook in self.hooks:
                if isinstance(event, StepEvent):
                    hook.step_ended(event)
                else:
                    hook.evaluation_ended(event)
        except StopRun as stop:
            reason = str(stop) or "a hook stopped the run"
        reason = ranks.from_first(reason)
        if reason is not None:
            raise StopRun(reason)


def _group(means: dict[str, float], prefix: str) -> dict[str, float]:
    return {name.removeprefix(prefix): value for name, value in means.items() if name.startswith(prefix)}
