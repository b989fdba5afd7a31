"""One run, from its name to its record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kdflow.engine.hooks import Hook, RunEnded, RunStarted
from kdflow.engine.journal import Journal
from kdflow.engine.loop import FitResult, fit
from kdflow.errors import UsageError
from kdflow.experiment.export import export_notes, export_student
from kdflow.experiment.feed import Feed
from kdflow.experiment.filled import nearest, write_identity, write_spec
from kdflow.experiment.hashes import digest
from kdflow.experiment.identity import Identity, teacher_identity
from kdflow.experiment.result import RESULT, RunResult
from kdflow.experiment.session import Session, open_session
from kdflow.experiment.setup import Setting, fill_weights, is_bench_path, prepare, read_method
from kdflow.experiment.teacher import best_student, measure_learned, untrained_teacher
from kdflow.files import as_json, in_words, write_json
from kdflow.folders import runs_folder, slug
from kdflow.graph.facets import knowledge, needs
from kdflow.graph.inherit import inherit
from kdflow.spec.resolve import MethodSpec
from kdflow.tracking.lock import held
from kdflow.tracking.mlflow import MlflowTracker
from kdflow.tracking.run import RunFacts
from kdflow.tracking.store import require_store

__all__ = ["RunResult", "TrialOf", "run"]

Notify = Callable[[str], None]
Found = tuple[str, Mapping[str, float]]


@dataclass(frozen=True)
class TrialOf:
    """Says that a run is one trial of a search: judged on the validation split, neither measured on test nor exported.

    Attributes:
        study: Name of the search.
        number: Number of the trial in it.
        parent: MLflow id of the search's own run.
    """

    study: str
    number: int
    parent: str = ""

    def folder(self, output: Path, bench: str) -> Path:
        """Where the trial's checkpoints lie."""
        return output / slug(bench) / "trials" / slug(self.study) / str(self.number)


def run(
    spec: str | Path | MethodSpec,
    *,
    bench: str | Path | None = None,
    seed: int = 0,
    steps: int | None = None,
    device: str = "auto",
    precision: str | None = None,
    compiled: bool = False,
    overrides: Mapping[str, Any] | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    hooks: Sequence[Hook] = (),
    notify: Notify = print,
    session: Session | None = None,
    trial: TrialOf | None = None,
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
        overrides: Dotted path of method or bench -> value.
        output: Folder of all runs; none takes ``$KDFLOW_RUNS``, else ``kdflow-runs``.
        resume: Go on from the last checkpoint; a finished run is reported, not repeated.
        hooks: Further listeners of the training.
        notify: Receives one line per phase of the work.
        session: Device, data and teachers to share with other runs; none opens them for this run (``device`` then counts).
        trial: The run is a trial of a search; its ``metrics`` stay empty, ``validation`` is what it is judged by.

    Raises:
        SpecError, UsageError, DataError: The user's mistakes, before training starts.
        InvariantError: Training silently went wrong.
    """
    method = spec if isinstance(spec, MethodSpec) else read_method(spec)
    setting = prepare(method, bench, overrides=with_length(overrides, steps, precision, compiled), seed=seed)
    place = runs_folder(output)
    if session is not None:
        return _run(setting, session, place, resume, hooks, notify, trial)
    with open_session(device) as own:
        return _run(setting, own, place, resume, hooks, notify, trial)


def feed_of(setting: Setting, session: Session) -> Feed:
    """The batches of a setting."""
    return session.feed(setting)


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
    student = best_student(folder, setting.plan.predictor())
    student.model.to(session.machine.device)
    metrics = session.feed(setting).evaluate(student, "test")
    export_student(student, folder)
    return metrics


def with_length(
    given: Mapping[str, Any] | None, steps: int | None, precision: str | None = None, compiled: bool = False
) -> dict[str, Any]:
    """Overrides, with length, precision and compilation as overrides of the recipe."""
    changes = dict(given or {})
    if steps is not None:
        changes |= {"recipe.steps": steps, "recipe.epochs": None}
    if precision is not None:
        changes["recipe.precision"] = precision
    if compiled:
        changes["recipe.compile"] = True
    return changes


@dataclass(frozen=True)
class Opened:
    """A run with its data and weights, ready to train.

    Attributes:
        setting: What is run.
        feed: Its batches.
        identity: Hash of all that determines its result.
        folder: Where everything it leaves behind goes.
        tracker: Its record.
        is_trial: It is one trial of a search.
    """

    setting: Setting
    feed: Feed
    identity: str
    folder: Path
    tracker: MlflowTracker
    is_trial: bool = False

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
            yield

    def evaluate(self, _plan: Any = None) -> Mapping[str, float]:
        """Metrics of the student on the validation split, in percent."""
        return self.feed.evaluate(self.setting.plan.predictor(), "val")

    def measure(self, owner: str) -> Mapping[str, float]:
        """The same for a teacher that a phase of the method has trained; raises InvariantError if it has learned nothing."""
        return measure_learned(owner, self.setting.plan.predictor(owner), self.feed)


def open_run(
    setting: Setting,
    session: Session,
    output: Path,
    resume: bool,
    hooks: Sequence[Hook] = (),
    notify: Notify = print,
    trial: TrialOf | None = None,
) -> Opened | RunResult:
    """Know the run by its hash and give student and teachers their weights; the result of a finished run where ``resume``.

    What can go wrong without training does so here: a store that does not answer, a folder that cannot be written.
    """
    bench, method = setting.bench, setting.method
    if session.machine.is_first:
        require_store(output)
    identity = session.identify(setting)
    folder = trial.folder(output, bench.bench) if trial else folder_of(setting, identity.run, output)
    if resume and (done := _finished(setting, session, identity, folder, output, notify, trial)) is not None:
        return done
    if session.machine.is_first:
        if resume and not trial:
            _tell_nearest(identity, folder, method.method, notify)
        write_identity(identity, folder)
    feed = session.feed(setting)
    fill_weights(bench.student, setting.detectors["student"])
    teachers = provide_teachers(setting, session, feed, () if trial else hooks, notify)
    inherit(method.init, setting.detectors)
    setting.plan.copy_weights()
    tracker = MlflowTracker(_facts(setting, identity, folder, teachers, trial), output)
    return Opened(setting, feed, identity.run, folder, tracker, trial is not None)


def folder_of(setting: Setting, run_hash: str, output: Path) -> Path:
    """Where everything that a run leaves behind goes."""
    return output / slug(setting.bench.bench) / f"{setting.method.method}-s{setting.seed}-{run_hash[:8]}"


def _tell_nearest(identity: Identity, folder: Path, method: str, notify: Notify) -> None:
    """Say that there is nothing to go on with, and what the nearest run was."""
    if (folder / "last.pt").is_file() or (folder / "previous.pt").is_file():
        return
    words = f"{method}: nothing was resumed, because no run like this one was begun in {folder.parent}"
    near = nearest(identity, folder, method)
    notify(words if near is None else f"{words}; the nearest is {near}")


def _run(
    setting: Setting,
    session: Session,
    output: Path,
    resume: bool,
    hooks: Sequence[Hook],
    notify: Notify,
    trial: TrialOf | None,
) -> RunResult:
    opened = open_run(setting, session, output, resume, hooks, notify, trial)
    if isinstance(opened, RunResult):
        return opened
    feed = opened.feed
    with opened.work(resume):
        result = fit(
            setting.plan,
            feed.training,
            setting.bench.recipe,
            folder=opened.folder,
            total_steps=feed.total_steps,
            steps_per_epoch=feed.steps_per_epoch,
            seed=setting.seed,
            run_hash=opened.identity,
            hooks=[opened.tracker, *hooks],
            evaluate=opened.evaluate,
            measure=opened.measure,
            metric=setting.bench.evaluation.metric,
            phases=setting.method.phases,
            passes=feed.one_pass,
            resume=resume,
            device=session.machine,
        )
        return record(opened, result, notify)


def _facts(
    setting: Setting, identity: Identity, folder: Path, teachers: Mapping[str, Found], trial: TrialOf | None = None
) -> RunFacts:
    """What the store keeps of this run, to be found and compared by."""
    plan, method, bench = setting.plan, setting.method, setting.bench
    filled = {"method": method.model_dump(mode="json"), "bench": bench.model_dump(mode="json")}
    return RunFacts(
        method=method.method,
        bench=bench.bench,
        seed=setting.seed,
        run_hash=_record_hash(identity, trial),
        definition=identity.definition,
        bench_hash=identity.bench,
        kind="trial" if trial else "run",
        parent=trial.parent if trial else "",
        dataset=bench.data.format,
        title=method.title,
        paper=method.paper.arxiv or method.paper.doi,
        fidelity=method.fidelity,
        families={owner: detector.family for owner, detector in setting.detectors.items()},
        detectors={owner: detector.name for owner, detector in setting.detectors.items()},
        student=str(bench.student.options.get("backbone", "")),
        terms={term.name: term.nodes for term in plan.terms},
        rewires=plan.report.rewires,
        knowledge=knowledge(plan.graph),
        needs=needs(plan.graph, method),
        overrides={path: value for path, value in setting.overrides.items() if not is_bench_path(path)},
        bench_overrides={path: value for path, value in setting.overrides.items() if is_bench_path(path)},
        params={
            **{f"{owner}_AP50": metrics.get("AP50") for owner, (_, metrics) in teachers.items()},
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        spec=filled,
        artifacts=tuple(write_spec(setting, folder)),
    )


def record(opened: Opened, result: FitResult, notify: Notify = print) -> RunResult:
    """Evaluate the best student on test, export it, and write the record; a trial keeps to the validation split."""
    setting, feed, tracker, folder = opened.setting, opened.feed, opened.tracker, opened.folder
    is_trial = opened.is_trial
    metrics: Mapping[str, float] = {}
    path: Path | None = None
    finished = result.status == "finished"
    if finished and not is_trial:
        student = best_student(folder, setting.plan.predictor())
        metrics = feed.evaluate(student, "test")
        path = export_student(student, folder)
    times = sorted(event.step_time for event in result.history)
    done = RunResult(
        method=setting.method.method,
        bench=setting.bench.bench,
        seed=setting.seed,
        run_id=tracker.run_id,
        status=result.status,
        metrics=dict(metrics),
        validation=_validation(result),
        step_ms=1000 * times[len(times) // 2] if times else None,
        resumed_from_step=result.resumed_from_step,
        teacher_stages_run=setting.plan.report.teacher_stages_run,
        teacher_stages_pruned=setting.plan.report.teacher_stages_pruned,
        student_path=str(path) if path else None,
        folder=str(folder.resolve()),
        reason=result.reason,
        notes=(*result.notes, *(f"not seen alive: {t}" for t in result.unproven), *export_notes(setting.plan.predictor())),
        added_parameters=sum(setting.plan.report.adapters.values()),
        run_hash=opened.identity,
    )
    if finished and feed.machine.is_first:
        _publish(opened.tracker, done, feed.source.two_splits, is_trial)
        if path is not None:
            notify(f"{done.method}: test AP {metrics['AP']:.1f}, mAP@0.5 {metrics['voc_ap50']:.1f}; student in {path}")
    return done


def _record_hash(identity: Identity, trial: TrialOf | None) -> str:
    """What a record is found by: equal trials of two studies are two records."""
    return digest({"run": identity.run, "study": trial.study, "trial": trial.number}) if trial else identity.run


def _publish(tracker: MlflowTracker, done: RunResult, two_splits: bool, is_trial: bool) -> None:
    """Finish the record, then mark the folder as finished: a kill in between leaves a run that goes on to this place again."""
    folder = Path(done.folder)
    tracker.text(RESULT, as_json(done.as_json()))
    if is_trial:
        tracker.finish(done.validation, (), "val")
    else:
        files = [folder / "student.py", *([Path(done.student_path)] if done.student_path else [])]
        tracker.finish(done.metrics, files, "val" if two_splits else "test")
    write_json(folder / RESULT, done.as_json())


def _validation(result: FitResult) -> dict[str, float]:
    """Metrics of the evaluation that chose the exported student, else of the last one."""
    step = result.best.get("step")
    return dict(next((e.metrics for e in result.evaluations if e.step == step), result.metrics))


def _finished(
    setting: Setting,
    session: Session,
    identity: Identity,
    folder: Path,
    output: Path,
    notify: Notify,
    trial: TrialOf | None,
) -> RunResult | None:
    """The result of a run that is done already; a record that does not say so is mended, missing files undo it."""
    done = RunResult.read(folder / RESULT, notify)
    if done is None or done.run_hash not in ("", identity.run):
        return None
    gone = [] if trial else [name for name in ("student.pt", "student.py") if not (folder / name).is_file()]
    if gone:
        notify(f"{done.method}: {folder} is marked as finished, but {' and '.join(gone)} is gone; it is made again")
        return None
    if session.machine.is_first:
        tracker = MlflowTracker(_facts(setting, identity, folder, {}, trial), output)
        if not tracker.is_recorded():
            notify(f"{done.method}: this run is finished, but its record was not; it is written now")
            two_splits = session.source(setting.bench.data).two_splits
            done = _mend(tracker, identity, replace(done, folder=str(folder.resolve())), two_splits, trial is not None)
    notify(f"{done.method}: this run is finished; its result is in {folder}")
    return done


def _mend(
    tracker: MlflowTracker, identity: Identity, done: RunResult, two_splits: bool, is_trial: bool
) -> RunResult:
    """Write the record of a finished run, with the steps and evaluations that its journal kept."""
    journal = Journal(Path(done.folder), identity.run, keep=True, writes=False)
    steps, evaluations = journal.steps, journal.evaluations
    last = max([*steps, *evaluations, 1])
    tracker.run_started(RunStarted(Path(done.folder), last, last, "", 1, ()))
    for step in sorted({*steps, *evaluations}):
        if step in steps:
            tracker.step_ended(steps[step])
        if step in evaluations:
            tracker.evaluation_ended(evaluations[step])
    tracker.run_ended(RunEnded("finished", last))
    done = replace(done, run_id=tracker.run_id)
    _publish(tracker, done, two_splits, is_trial)
    return done
