"""One run, from its name to its record."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from kdflow.engine.hooks import Hook
from kdflow.engine.loop import FitResult, fit
from kdflow.errors import SpecError, UsageError
from kdflow.experiment.export import export_notes, export_student, write_json, write_spec
from kdflow.experiment.feed import Feed
from kdflow.experiment.identity import detector_code, digest, op_code
from kdflow.experiment.session import Session, open_session
from kdflow.experiment.setup import Setting, fill_weights, is_bench_path, prepare, read_method, silent_terms
from kdflow.experiment.teacher import best_student, measure_learned, untrained_teacher, weights_hash
from kdflow.graph.facets import knowledge, needs
from kdflow.graph.inherit import inherit
from kdflow.spec.resolve import MethodSpec
from kdflow.tracking.mlflow import MlflowTracker
from kdflow.tracking.run import RunFacts

Notify = Callable[[str], None]
Found = tuple[str, Mapping[str, float]]
OUTPUT = Path("kdflow-runs")


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
        return output / bench / "trials" / self.study / str(self.number)


@dataclass(frozen=True)
class RunResult:
    """What a run brought.

    Attributes:
        method: Slug.
        bench: Bench name.
        seed: Seed.
        run_id: MLflow run.
        status: ``finished``, ``interrupted``, ``stopped``, or ``failed`` (one of several that train together).
        metrics: Metrics of the exported student on the test split, in percent; empty unless finished.
        validation: The same on the validation split, at the best evaluation.
        step_ms: Median milliseconds of a training step.
        resumed_from_step: Steps taken over from a checkpoint.
        teacher_stages_run: Teacher stages that ran in every step.
        teacher_stages_pruned: Teacher stages that never ran.
        student_path: Absolute path of the student's weights, None unless finished.
        folder: Everything the run left behind.
        notes: What was guaranteed and what was passed over.
        added_parameters: Weights of adapters and generators, which the exported student does not have.
    """

    method: str
    bench: str
    seed: int
    run_id: str | None
    status: str
    metrics: Mapping[str, float]
    validation: Mapping[str, float]
    step_ms: float | None
    resumed_from_step: int
    teacher_stages_run: tuple[str, ...]
    teacher_stages_pruned: tuple[str, ...]
    student_path: str | None
    folder: str
    reason: str = ""
    notes: tuple[str, ...] = field(default=())
    added_parameters: int = 0

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


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
    output: Path = OUTPUT,
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
        output: Folder of all runs.
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
    if session is not None:
        return _run(setting, session, output, resume, hooks, notify, trial)
    with open_session(device) as own:
        return _run(setting, own, output, resume, hooks, notify, trial)


def feed_of(setting: Setting, session: Session) -> Feed:
    """The batches of a setting."""
    bench = setting.bench
    divisor = max(d.size_divisor for d in setting.detectors.values())
    return Feed(session.source(bench.data), bench, bench.recipe, setting.seed, divisor, session.machine)


def provide_teachers(
    setting: Setting, session: Session, feed: Feed, hooks: Sequence[Hook] = (), notify: Notify = print
) -> dict[str, Found]:
    """Give the setting's teachers their weights; owner -> identity and validation metrics.

    A teacher without ``weights:`` that a phase of the method trains gets none, and has no metrics yet.
    """
    found: dict[str, Found] = {}
    for owner, spec in setting.bench.all_teachers.items():
        if owner in setting.plan.learners and spec.weights is None:
            found[owner] = untrained_teacher(owner, setting.detectors[owner], notify)
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
    metrics = feed_of(setting, session).evaluate(student, "test")
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
    """Give student and teachers their weights and know the run by its hash; the result of a finished run where ``resume``."""
    bench, method = setting.bench, setting.method
    feed = feed_of(setting, session)
    fill_weights(bench.student, setting.detectors["student"])
    teachers = provide_teachers(setting, session, feed, () if trial else hooks, notify)
    identity = _identity(setting, feed, {owner: found[0] for owner, found in teachers.items()})
    name = f"{method.method}-s{setting.seed}-{identity[:8]}"
    folder = trial.folder(output, bench.bench) if trial else output / bench.bench / name
    if resume and (done := _finished(folder)) is not None:
        notify(f"{method.method}: this run is finished; its result is in {folder}")
        return done
    inherit(method.init, setting.detectors)
    setting.plan.copy_weights()
    facts = _facts(setting, identity, folder, teachers)
    if trial:
        own_hash = digest({"run": identity, "study": trial.study, "trial": trial.number})
        facts = replace(facts, kind="trial", parent=trial.parent, run_hash=own_hash)
    return Opened(setting, feed, identity, folder, MlflowTracker(facts, output), trial is not None)


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
    refuse_silent(setting, feed)
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


def _identity(setting: Setting, feed: Feed, teachers: Mapping[str, str]) -> str:
    """Hash of all that determines this run's result."""
    bench = setting.bench.model_dump(mode="json", exclude={"title", "floor", "teacher", "teachers"})
    return digest(
        {
            "method": setting.method.model_dump(mode="json", exclude={"title", "paper", "search", "variants", "bench"}),
            "bench": bench,
            "teachers": teachers,
            "start": weights_hash(setting.detectors["student"]) if setting.bench.student.weights else "",
            **feed.facts(),
            "code": _code(setting),
            "threads": torch.get_num_threads() if feed.machine.device.type == "cpu" else 0,
        }
    )


def _code(setting: Setting) -> str:
    """Hash of the code of the student and of the ops in use."""
    return digest({"student": detector_code([setting.bench.student.detector]), "ops": op_code(setting.plan.graph)})


def _facts(setting: Setting, identity: str, folder: Path, teachers: Mapping[str, Found]) -> RunFacts:
    """What the store keeps of this run, to be found and compared by."""
    plan, method, bench = setting.plan, setting.method, setting.bench
    filled = {"method": method.model_dump(mode="json"), "bench": bench.model_dump(mode="json")}
    return RunFacts(
        method=method.method,
        bench=bench.bench,
        seed=setting.seed,
        run_hash=identity,
        definition=digest({**filled, "code": _code(setting)}),
        bench_hash=digest(filled["bench"]),
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


def refuse_silent(setting: Setting, feed: Feed) -> None:
    """Raise SpecError when a term counts at no step of the run, whose length is known now that the data are open."""
    if silent := silent_terms(setting.method, setting.plan, setting.document, feed.total_steps, feed.steps_per_epoch):
        raise SpecError(silent)


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
    )
    if finished and feed.machine.is_first:
        write_json(folder / "result.json", done.as_json())
    if finished and is_trial and feed.machine.is_first:
        tracker.finish(done.validation, [folder / "result.json"], "val")
    if path is not None and feed.machine.is_first:
        tracker.finish(
            metrics, [folder / "result.json", folder / "student.py", path], "val" if feed.source.two_splits else "test"
        )
        notify(f"{done.method}: test AP {metrics['AP']:.1f}, mAP@0.5 {metrics['voc_ap50']:.1f}; student in {path}")
    return done


def _validation(result: FitResult) -> dict[str, float]:
    """Metrics of the evaluation that chose the exported student, else of the last one."""
    step = result.best.get("step")
    return dict(next((e.metrics for e in result.evaluations if e.step == step), result.metrics))


def _finished(folder: Path) -> RunResult | None:
    """The result of a run that is done already."""
    file = folder / "result.json"
    if not file.is_file():
        return None
    content = json.loads(file.read_text())
    lists = ("teacher_stages_run", "teacher_stages_pruned", "notes")
    fields: dict[str, Any] = {key: tuple(value) if key in lists else value for key, value in content.items()}
    return RunResult(**fields)
