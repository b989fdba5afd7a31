"""One run, from its name to its record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdflow.engine.evaluate import Evaluation
from kdflow.engine.loop import FitResult, fit
from kdflow.engine.run import Fit
from kdflow.errors import SpecError, UsageError
from kdflow.events import Hook
from kdflow.experiment.balance import silent_terms
from kdflow.experiment.build import fill_weights
from kdflow.experiment.costs import student_costs
from kdflow.experiment.export import export_notes, export_student
from kdflow.experiment.feed import Feed
from kdflow.experiment.filled import WEIGHTS, FilledWeights, write_identity
from kdflow.experiment.findings import DETECTIONS, never_found, write_detections
from kdflow.experiment.identity import teacher_identity, weights_hash
from kdflow.experiment.record import Found, facts_of, finished_result, publish, tell_nearest
from kdflow.experiment.request import Context, Notify, RunRequest, TrialOf
from kdflow.experiment.result import RESULT, RunResult
from kdflow.experiment.room import require_room
from kdflow.experiment.session import Session, open_session
from kdflow.experiment.setup import Setting
from kdflow.experiment.teacher import (
    best_student,
    examine_into,
    examined,
    measure_learned,
    student_of,
    untrained_teacher,
)
from kdflow.files import in_words
from kdflow.folders import runs_folder, slug
from kdflow.graph.inherit import inherit
from kdflow.graph.probe import sentences
from kdflow.spec.resolve import MethodSpec
from kdflow.tracking.lock import held
from kdflow.tracking.mlflow import MlflowTracker
from kdflow.tracking.store import require_store
from kdflow.tracking.trackers import Beside, beside, chosen_trackers

__all__ = ["RunResult", "TrialOf", "run"]


def run(
    spec: str | Path | MethodSpec,
    *,
    bench: str | Path | None = None,
    seed: int = 0,
    steps: int | None = None,
    device: str = "auto",
    precision: str | None = None,
    compiled: bool = False,
    calibrate: bool = False,
    fast: bool = False,
    overrides: Mapping[str, Any] | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    hooks: Sequence[Hook] = (),
    notify: Notify = print,
    session: Session | None = None,
    trial: TrialOf | None = None,
    trackers: Sequence[str] | None = None,
) -> RunResult:
    """Check, compile, train, evaluate and record one method on one bench.

    Args:
        spec: Slug, path, or a loaded method.
        bench: Name or path; none takes the method's own.
        seed: Seed of weights, data order and all random streams.
        steps: Length of training, in place of the recipe's.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``fp32``, ``bf16`` or ``fp16``, in place of the recipe's.
        compiled: Use torch.compile on what is dense, whatever the recipe says.
        calibrate: Set the method's weights by their share of the gradient, as ``recipe.calibrate`` does.
        fast: As fast as losses that are equal up to rounding allow, whatever the recipe says.
        overrides: Dotted path of method or bench -> value.
        output: Folder of all runs; none takes ``$KDFLOW_RUNS``, else ``kdflow-runs``.
        resume: Go on from the last checkpoint; a finished run is reported, not repeated.
        hooks: Further listeners of the training.
        notify: Receives one line per phase of the work.
        session: Device, data and teachers to share with other runs; none opens them for this run (``device`` then counts).
        trial: The run is a trial of a search; its ``metrics`` stay empty, ``validation`` is what it is judged by.

        trackers: What the run is written to beside MLflow (``tensorboard``); none takes ``$KDFLOW_TRACKERS``.

    Raises:
        SpecError, UsageError, DataError: The user's mistakes, before training starts.
        InvariantError: Training silently went wrong.
    """
    others = chosen_trackers(trackers)
    request = RunRequest(spec, bench, seed, steps, precision, compiled, calibrate, fast, overrides or {}, hooks, trial)
    setting = request.prepared()
    with nullcontext(session) if session is not None else open_session(device) as own:
        return _run(request, setting, Context(own, runs_folder(output), resume, notify, others))


def provide_teachers(
    setting: Setting, session: Session, feed: Feed, hooks: Sequence[Hook] = (), notify: Notify = print
) -> dict[str, Found]:
    """Give the setting's teachers their weights; owner -> identity and validation metrics.

    A teacher without ``weights:`` that a phase of the method trains gets none, and has no metrics yet.
    """
    found: dict[str, Found] = {}
    for owner, spec in setting.bench.all_teachers.items():
        if owner in setting.plan.learners and spec.weights is None:
            identity = teacher_identity(spec, setting.detectors[owner], setting.bench, feed.source.fingerprint)
            found[owner] = untrained_teacher(owner, identity, notify)
        elif owner in setting.detectors:
            found[owner] = session.teacher(owner, spec, setting.detectors[owner], feed, hooks, notify)
    return found


def measure_trial(setting: Setting, session: Session, folder: Path) -> Mapping[str, float]:
    """Metrics of a finished trial's best student on the test split, in percent; the student is exported into ``folder``.

    Raises:
        UsageError: The folder has no student.
    """
    if not (folder / "best.pt").is_file():
        raise UsageError(f"{folder} has no best.pt, so this trial cannot be measured on the test split")
    student = best_student(folder, setting.plan.predictor(), setting.plan)
    student.model.to(session.machine.device)
    feed = session.feed(setting)
    metrics = feed.evaluate(student, "test")
    export_student(student, folder, feed.pictures)
    return metrics


@dataclass(frozen=True)
class Opened:
    """A run with its data and weights, ready to train.

    Attributes:
        setting: What is run.
        feed: Its batches.
        identity: Hash of all that determines its result.
        folder: Where everything it leaves behind goes.
        tracker: Its record.
        others: Trackers beside it.
        is_trial: It is one trial of a search.
        teachers: Teacher -> its identity and metrics on the validation split.
        seen: What it learns from; see :class:`RunResult`.
        costs: Costs of the student that were asked for.
    """

    setting: Setting
    feed: Feed
    identity: str
    folder: Path
    tracker: MlflowTracker
    others: Beside
    is_trial: bool = False
    teachers: Mapping[str, Found] = field(default_factory=dict)
    seen: Mapping[str, Any] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)

    def fit(self, hooks: Sequence[Hook]) -> Fit:
        """Its training, listened to by its record and ``hooks``.

        Raises:
            SpecError: A term counts at no step of the run, whose length is known now that the data are open.
        """
        setting, feed = self.setting, self.feed
        steps, per_epoch = feed.total_steps, feed.steps_per_epoch
        if silent := silent_terms(setting.method, setting.plan, setting.document, setting.bench.recipe, steps, per_epoch):
            raise SpecError(silent)
        return Fit(
            setting.plan,
            setting.bench.recipe,
            self.folder,
            steps,
            per_epoch,
            setting.seed,
            self.identity,
            [*self.listeners, *hooks],
            self.evaluate,
            setting.bench.evaluation.metric,
            setting.method.phases,
            feed.one_pass,
            self.measure,
            kept=() if setting.plan.predictor() is setting.detectors["student"] else ("ops.",),
            inspect=sentences,
        )

    @contextmanager
    def work(self, resume: bool) -> Iterator[None]:
        """Train and record inside: no other process does so in this folder. A fresh start is not finished until it says so.

        A trial is its worker's by the study's queue.

        Raises:
            HeldError: Another process carries out this very run.
        """
        first = self.feed.machine.is_first
        with held(self.folder) if first and not self.is_trial else nullcontext():
            if first and not resume:
                with in_words(self.folder / RESULT):
                    (self.folder / RESULT).unlink(missing_ok=True)
                    (self.folder / WEIGHTS).unlink(missing_ok=True)
            yield

    @property
    def listeners(self) -> tuple[Hook, ...]:
        """Whoever writes down what happens."""
        return self.tracker, self.others, FilledWeights(self.setting, self.folder, self.tracker.file)

    def evaluate(self, _plan: Any = None) -> Mapping[str, float]:
        """Metrics of the student on the validation split, in percent."""
        return self.feed.evaluate(self.setting.plan.predictor(), "val")

    def measure(self, owner: str) -> Mapping[str, float]:
        """The same for a teacher that a phase of the method has trained; raises InvariantError if it has learned nothing."""
        return measure_learned(owner, self.setting.plan.predictor(owner), self.feed)


def open_run(request: RunRequest, setting: Setting, context: Context) -> Opened | RunResult:
    """Know the run by its hash and give student and teachers their weights.

    Gives the result of a finished run on resume, and of a trial that costs more than it may.

    What can go wrong without training does so here: a store that does not answer, a folder that cannot be written.
    """
    bench, method = setting.bench, setting.method
    session, output, trial = context.session, context.output, request.trial
    if context.is_first:
        require_store(output)
    identity = session.identify(setting)
    folder = trial.folder(output, bench.bench) if trial else folder_of(setting, identity.run, output)
    if context.resume and (done := finished_result(setting, context, identity, folder, trial)) is not None:
        return done
    costs = student_costs(setting, trial.costs) if trial else {}
    if trial and (excess := trial.excess(costs)):
        return RunResult(
            method.method, bench.bench, setting.seed, None, "stopped", {}, {}, None, 0, (), (), None, str(folder.resolve()),
            excess, run_hash=identity.run, costs=costs,
        )
    if context.is_first:
        require_room(folder, setting.plan, setting.detectors["student"].model, bench.recipe)
        if context.resume and not trial:
            tell_nearest(identity, folder, method.method, context.notify)
        write_identity(identity, folder)
    for words in setting.plan.report.remarks:
        context.notify(f"{method.method}: {words}")
    feed = session.feed(setting)
    session.inspect(feed, context.notify)
    teachers, seen = give_weights(setting, session, feed, () if trial else request.hooks, context.notify)
    facts = facts_of(setting, identity, folder, teachers, trial)
    tracker, others = MlflowTracker(facts, output), beside(context.trackers, facts, folder)
    seen = {**seen, "batches": identity.stream}
    return Opened(setting, feed, identity.run, folder, tracker, others, trial is not None, teachers, seen, costs)


def give_weights(
    setting: Setting, session: Session, feed: Feed, hooks: Sequence[Hook] = (), notify: Notify = print
) -> tuple[dict[str, Found], dict[str, Any]]:
    """Load or train everything that a run starts from; the teachers, and what the run will have seen.

    The student's weights are looked at before a method takes some over from the teacher.
    """
    student, recipe = setting.detectors["student"], setting.bench.recipe
    fill_weights(setting.bench.student, student)
    first = weights_hash(student)
    teachers = provide_teachers(setting, session, feed, hooks, notify)
    known = {
        owner: {"identity": identity, "weights": session.weights_of(owner, identity, setting.detectors[owner])}
        for owner, (identity, _) in teachers.items()
    }
    parent = None if setting.start is None else student_of(setting.start)
    inherit(setting.method.init, setting.detectors, parent)
    setting.plan.copy_weights()
    images = feed.total_steps * recipe.batch * recipe.accumulate * session.machine.world_size
    return teachers, {
        "data": feed.source.fingerprint, "teachers": known, "student": first, "steps": feed.total_steps, "images": images,
    }


def folder_of(setting: Setting, run_hash: str, output: Path) -> Path:
    """Where everything that a run leaves behind goes."""
    return output / slug(setting.bench.bench) / f"{setting.method.method}-s{setting.seed}-{run_hash[:8]}"


def _run(request: RunRequest, setting: Setting, context: Context) -> RunResult:
    opened = open_run(request, setting, context)
    if isinstance(opened, RunResult):
        return opened
    asked = opened.fit(request.hooks)
    with opened.work(context.resume):
        result = fit(asked, opened.feed.training, resume=context.resume, device=context.session.machine)
        return record(opened, result, context.notify)


def record(opened: Opened, result: FitResult, notify: Notify = print) -> RunResult:
    """Evaluate the best student on test, export it, and write the record; a trial keeps to the validation split."""
    setting, feed, tracker, folder = opened.setting, opened.feed, opened.tracker, opened.folder
    is_trial = opened.is_trial
    found, teachers = Evaluation({}, {}), {}
    path: Path | None = None
    finished = result.status == "finished"
    if finished and not is_trial:
        student = best_student(folder, setting.plan.predictor(), setting.plan)
        found = feed.examine(student, "test")
        teachers = examine_teachers(opened, notify)
        if feed.machine.is_first:
            write_detections(folder / DETECTIONS, found, feed.source.splits["test"].coco)
        path = export_student(student, folder, feed.pictures)
    absent = tuple(never_found(found.classes))
    times = sorted(event.step_time for event in result.history)
    done = RunResult(
        method=setting.method.method,
        bench=setting.bench.bench,
        seed=setting.seed,
        run_id=tracker.run_id,
        status=result.status,
        metrics=dict(found.metrics),
        validation=_validation(result),
        step_ms=1000 * times[len(times) // 2] if times else None,
        resumed_from_step=result.resumed_from_step,
        teacher_stages_run=setting.plan.report.teacher_stages_run,
        teacher_stages_pruned=setting.plan.report.teacher_stages_pruned,
        student_path=str(path) if path else None,
        folder=str(folder.resolve()),
        reason=result.reason,
        notes=(
            *result.notes, *(f"not seen alive: {t}" for t in result.unproven), *absent, *export_notes(setting.plan.predictor())
        ),
        added_parameters=sum(setting.plan.report.adapters.values()),
        run_hash=opened.identity,
        pulls={name: pull.pull for name, pull in result.pulls.items()},
        classes=found.classes,
        teachers=teachers,
        seen=opened.seen,
        pictures=vars(feed.pictures),
        costs=opened.costs,
        peak_memory_mib=max((e.peak_memory for e in result.history if e.peak_memory is not None), default=None),
    )
    if finished and feed.machine.is_first:
        publish((opened.others, opened.tracker), done, feed.source.two_splits, is_trial)
        if path is not None:
            theirs = "".join(f", {owner} {one['metrics']['AP']:.1f}" for owner, one in teachers.items())
            split = "val" if feed.source.two_splits else "test"
            own = f"{split} AP {done.metrics['AP']:.1f}{theirs}, mAP@0.5 {done.metrics['voc_ap50']:.1f}"
            notify(f"{done.method}: {own}; student in {path}")
            for words in absent:
                notify(f"{done.method}: {words}")
    return done


def examine_teachers(opened: Opened, notify: Notify = print) -> dict[str, dict[str, Any]]:
    """Each teacher that detects, on the test split; those that a phase trained are measured as they ended."""
    found: dict[str, dict[str, Any]] = {}
    plan = opened.setting.plan
    for owner, (identity, _) in opened.teachers.items():
        if not opened.setting.detectors[owner].detects:
            continue
        if owner in plan.learners:
            file = opened.folder / f"detections-{owner}.json"
            if opened.feed.machine.is_first:
                file.unlink(missing_ok=True)
            evaluation, file = examine_into(file, plan.predictor(owner), opened.feed, notify)
        else:
            evaluation, file = examined(identity, opened.setting.detectors[owner], opened.feed, notify)
        found[owner] = {
            "metrics": dict(evaluation.metrics), "classes": dict(evaluation.classes), "detections": str(file.resolve()),
            "identity": identity,
        }
    return found


def _validation(result: FitResult) -> dict[str, float]:
    """Metrics of the evaluation that chose the exported student, else of the last one."""
    step = result.best.get("step")
    return dict(next((e.metrics for e in result.evaluations if e.step == step), result.metrics))
