"""The record of a run: what the store keeps of it, when it counts as finished, and how a record that was left open is mended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from kdflow.engine.journal import Journal
from kdflow.events import RunEnded, RunStarted
from kdflow.experiment.filled import nearest, write_spec
from kdflow.experiment.hashes import digest
from kdflow.experiment.identity import Identity
from kdflow.experiment.reading import is_bench_path
from kdflow.experiment.request import Context, Notify, TrialOf
from kdflow.experiment.result import RESULT, RunResult
from kdflow.experiment.setup import Setting
from kdflow.files import as_json, write_json
from kdflow.graph.facets import knowledge, needs
from kdflow.spec.metrics import recorded_name
from kdflow.tracking.mlflow import MlflowTracker
from kdflow.tracking.run import DETAILS, RunFacts, Tracker, safe_name

Found = tuple[str, Mapping[str, float]]


def facts_of(
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
        overrides={path: value for path, value in setting.overrides.items() if not _of_bench(path)},
        bench_overrides={path: value for path, value in setting.overrides.items() if _of_bench(path)},
        params={
            **{f"{owner}_AP50": metrics.get("AP50") for owner, (_, metrics) in teachers.items()},
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        spec=filled,
        artifacts=tuple(write_spec(setting, folder)),
    )


def _of_bench(path: str) -> bool:
    """True for what makes another bench of it; how a method's weights are set does not, wherever that is written."""
    return is_bench_path(path) and not path.startswith("recipe.calibrate")


def _record_hash(identity: Identity, trial: TrialOf | None) -> str:
    """What a record is found by: equal trials of two studies are two records."""
    return digest({"run": identity.run, "study": trial.study, "trial": trial.number}) if trial else identity.run


def publish(trackers: Sequence[Tracker], done: RunResult, two_splits: bool, is_trial: bool) -> None:
    """Finish the records, then mark the folder as finished: a kill in between leaves a run that goes on to this place again."""
    folder = Path(done.folder)
    files = [] if is_trial else [folder / "student.py", *([Path(done.student_path)] if done.student_path else [])]
    metrics = dict(done.validation) if is_trial else {**done.metrics, **details_of(done)}
    metrics |= {recorded_name(name): value for name, value in done.costs.items()}
    split = "val" if is_trial or two_splits else "test"
    for tracker in trackers:
        tracker.text(RESULT, as_json(done.as_json()))
        tracker.finish(metrics, files, split)
    write_json(folder / RESULT, done.as_json())


def details_of(done: RunResult) -> dict[str, float]:
    """AP by class (``test/class/dog``), and what the teachers reach (``test/teacher/AP``)."""
    classes: dict[str, float] = {}
    for name, numbers in done.classes.items():
        if "AP" in numbers:
            key = safe_name(f"{DETAILS}class/{name}")
            while key in classes:  # two names may be one to the store
                key += "_"
            classes[key] = numbers["AP"]
    return {
        **classes,
        **{
            f"{DETAILS}{owner}/{name}": value
            for owner, teacher in done.teachers.items() for name, value in teacher.get("metrics", {}).items()
        },
    }


def finished_result(
    setting: Setting, context: Context, identity: Identity, folder: Path, trial: TrialOf | None
) -> RunResult | None:
    """The result of a run that is done already; a record that does not say so is mended, missing files undo it."""
    notify = context.notify
    done = RunResult.read(folder / RESULT, notify)
    if done is None or done.run_hash not in ("", identity.run):
        return None
    gone = [] if trial else [name for name in ("student.pt", "student.py") if not (folder / name).is_file()]
    if gone:
        notify(f"{done.method}: {folder} is marked as finished, but {' and '.join(gone)} is gone; it is made again")
        return None
    if context.is_first:
        tracker = MlflowTracker(facts_of(setting, identity, folder, {}, trial), context.output)
        if not tracker.is_recorded():
            notify(f"{done.method}: this run is finished, but its record was not; it is written now")
            two_splits = context.session.source(setting.bench.data).two_splits
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
    publish((tracker,), done, two_splits, is_trial)
    return done


def tell_nearest(identity: Identity, folder: Path, method: str, notify: Notify) -> None:
    """Say that there is nothing to go on with, and what the nearest run was."""
    if (folder / "last.pt").is_file() or (folder / "previous.pt").is_file():
        return
    words = f"{method}: nothing was resumed, because no run like this one was begun in {folder.parent}"
    near = nearest(identity, folder, method)
    notify(words if near is None else f"{words}; the nearest is {near}")
