"""What a search found: the best values, how sure, and where it is written down."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from kdflow.errors import KdflowError, without_passwords
from kdflow.experiment.reading import context_of
from kdflow.experiment.run import measure_trial
from kdflow.experiment.session import Session
from kdflow.experiment.setup import prepare
from kdflow.files import write_json, write_text
from kdflow.folders import slug
from kdflow.search.definition import Definition
from kdflow.search.objective import RunObjective
from kdflow.search.plain import Plain, plain_of, run_plain
from kdflow.search.plots import draw, importances_of
from kdflow.search.queue import Queue
from kdflow.search.space import Space
from kdflow.search.worker import Notify
from kdflow.search.write import variant_text, write_best
from kdflow.spec.metrics import COSTS, recorded_name
from kdflow.spec.resolve import MethodSpec
from kdflow.tracking.store import open_client, quiet, store_uri


@dataclass(frozen=True)
class Best:
    """A trial that no other beats.

    Attributes:
        number: Of the trial.
        values: Dotted path -> value.
        objectives: Metric -> value on the validation split.
        validation: All metrics on the validation split.
        folder: Its files.
    """

    number: int
    values: Mapping[str, Any]
    objectives: Mapping[str, float]
    validation: Mapping[str, float]
    folder: str


@dataclass(frozen=True)
class Outcome:
    """The state of a study when a worker left it.

    Attributes:
        study: Name.
        method: Slug.
        bench: Bench name.
        complete: All trials are finished.
        counts: ``complete``, ``pruned``, ``fail``, ``running``, ``waiting`` -> trials.
        failures: Trial -> why it failed.
        best: The best trial; of several objectives the Pareto front, the best of the first metric first.
        test: Metrics of the best trial's student on the test split, measured once.
        importances: Dotted path -> share of the variation it explains.
        yaml: The best values as overrides and as a variant of the spec.
        files: What was written.
        notes: What was not done, and why.
        plain: The student without distillation, and whether the best trial differs from it beyond noise.
    """

    study: str
    method: str
    bench: str
    complete: bool
    counts: Mapping[str, int]
    failures: Mapping[int, str]
    best: tuple[Best, ...] = ()
    test: Mapping[str, float] = field(default_factory=dict)
    importances: Mapping[str, float] = field(default_factory=dict)
    yaml: str = ""
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    plain: Plain = field(default_factory=Plain)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "plain": self.plain.as_json()}


def conclude(
    spec: MethodSpec,
    queue: Queue,
    space: Space,
    wanted: Definition,
    session: Session,
    objective: RunObjective,
    *,
    mine: list[int],
    complete: bool,
    was_complete: bool,
    write: Path | None,
    notify: Notify,
    plain_seeds: int = 0,
) -> Outcome:
    """Put together what was found; the worker that ran the last trial also measures the best one on test.

    Args:
        spec: The method.
        queue: The study's trials.
        space: What was searched.
        wanted: What the study is about.
        session: Device and data.
        objective: Knows the settings of the trials.
        mine: Trials that this worker finished.
        complete: No trial is left.
        was_complete: None was left when this worker came.
        write: Where to write the method with the best values.
        notify: Receives remarks.
        plain_seeds: Seeds of the student without distillation; what is missing of them is run by whoever measures the best trial.
    """
    best = best_of(queue, space, wanted)
    notes: list[str] = []
    test: Mapping[str, float] = {}
    if complete and best:
        measures = was_complete or _last(queue) in mine
        test = _measured(queue, best[0], measures, spec, session, objective, notes)
        if measures:
            run_plain(objective, queue, plain_seeds, notify)
    text = best_yaml(best[0].values, wanted, queue.study.study_name) if best else ""
    out = Path(objective.settings["output"]) / slug(wanted.bench) / "trials" / objective.study
    files, importances = _files(queue, best, wanted, out, text, complete, notes)
    if write is not None and best:
        files.append(_write(write, spec, best[0], wanted, objective, queue.study.study_name))
    outcome = Outcome(
        queue.study.study_name, wanted.method, wanted.bench, complete, _counts(queue), _failures(queue), best, test,
        importances, text, tuple(map(str, files)), tuple(notes), plain_of(queue, wanted.metrics),
    )
    write_json(out / "search.json", outcome.as_json())
    _track(wanted, outcome, [*files, out / "search.json"], Path(objective.settings["output"]), notify)
    return outcome


def best_of(queue: Queue, space: Space, wanted: Definition) -> tuple[Best, ...]:
    """The best complete trial, or the Pareto front; empty when none is complete."""
    trials = queue.trials(TrialState.COMPLETE)
    if not trials:
        return ()
    signs = [-1.0 if metric in COSTS else 1.0 for metric in wanted.metrics]
    ranked = sorted(trials, key=lambda t: (-signs[0] * t.values[0], t.number))
    if len(signs) == 1:
        return (_best(ranked[0], space, wanted),)
    return tuple(_best(t, space, wanted) for t in ranked if not any(_beats(o, t, signs) for o in ranked))


def _beats(one: FrozenTrial, other: FrozenTrial, signs: list[float]) -> bool:
    pairs = [(s * a, s * b) for s, a, b in zip(signs, one.values, other.values, strict=True)]
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def _best(trial: FrozenTrial, space: Space, wanted: Definition) -> Best:
    objectives = dict(zip(wanted.metrics, trial.values, strict=True))
    facts = trial.user_attrs
    values = space.values(trial.params)
    return Best(trial.number, values, objectives, facts.get("validation", {}), facts.get("folder", ""))


def best_yaml(values: Mapping[str, Any], wanted: Definition, study: str) -> str:
    """The values as dotted paths, ready for ``--set``, and as a variant to paste into the spec."""
    own = {path: value for path, value in values.items() if not path.startswith(("recipe.", "data.", "student.", "teacher"))}
    lines = ["set:", *(f"  {path}: {json.dumps(value)}" for path, value in values.items())]
    if own:
        lines += ["variants:", variant_text(wanted.bench, own, f"found by kdflow search, study {study}").rstrip()]
    return "\n".join(lines) + "\n"


def front_csv(front: tuple[Best, ...], metrics: tuple[str, ...]) -> str:
    """A line per trial of a front: its number, the objectives, and the values (lists as JSON)."""
    paths = list(dict.fromkeys(path for best in front for path in best.values))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["trial", *map(recorded_name, metrics), *paths])
    for best in front:
        values = [best.values.get(path, "") for path in paths]
        plain = [value if isinstance(value, str) else json.dumps(value) for value in values]
        table.writerow([best.number, *(best.objectives[metric] for metric in metrics), *plain])
    return text.getvalue()


def _last(queue: Queue) -> int:
    """The trial that finished last; all workers agree on it."""
    ended = [(t.datetime_complete, t.number) for t in queue.trials() if t.datetime_complete is not None]
    return max(ended)[1]


def _measured(
    queue: Queue, best: Best, measures: bool, spec: MethodSpec, session: Session, objective: RunObjective, notes: list[str]
) -> Mapping[str, float]:
    known = queue.study.user_attrs.get("test")
    if known is not None and known["trial"] == best.number:
        return dict(known["metrics"])
    if not measures:
        notes.append("the worker that finished the last trial measures the best one on the test split")
        return {}
    settings = objective.settings
    overrides = {**objective.overrides, **best.values}
    setting = prepare(spec, settings["bench"], overrides=overrides, seed=settings["seed"])
    try:
        metrics = measure_trial(setting, session, Path(best.folder))
    except (KdflowError, OSError) as error:
        notes.append(f"the best trial was not measured on the test split: {error}")
        return {}
    queue.study.set_user_attr("test", {"trial": best.number, "metrics": dict(metrics)})
    return metrics


def _counts(queue: Queue) -> dict[str, int]:
    states = [trial.state for trial in queue.trials()]
    return {state.name.lower(): states.count(state) for state in TrialState if state in states}


def _failures(queue: Queue) -> dict[int, str]:
    return {trial.number: str(trial.user_attrs.get("reason", "")) for trial in queue.trials(TrialState.FAIL)}


def _files(
    queue: Queue, best: tuple[Best, ...], wanted: Definition, out: Path, text: str, complete: bool, notes: list[str]
) -> tuple[list[Path], dict[str, float]]:
    """Best values, importances and plots."""
    if not best:
        return [], {}
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "best.yaml", text)
    front = [write_text(out / "front.csv", front_csv(best, wanted.metrics))] if len(wanted.metrics) > 1 else []
    importances = importances_of(queue.study, wanted.metrics)
    plots = draw(queue.study, wanted.metrics, out, notes) if complete else []
    return [out / "best.yaml", *front, *plots], importances


def _write(
    path: Path, spec: MethodSpec, best: Best, wanted: Definition, objective: RunObjective, study: str
) -> Path:
    setting = prepare(spec, objective.settings["bench"], overrides=wanted.overrides, seed=wanted.seed)
    found = ", ".join(f"{metric} {value:.2f}" for metric, value in best.objectives.items())
    reason = f"Found by kdflow search on {wanted.bench}, study {study}, trial {best.number}: {found} on validation."
    fixed = {p: v for p, v in wanted.overrides.items() if not p.startswith("recipe.")}
    return write_best(path, spec, best.values, context_of(setting.bench), fixed, reason)


def _track(wanted: Definition, outcome: Outcome, files: list[Path], output: Path, notify: Notify) -> None:
    """Keep the outcome with the search's own MLflow run; a store that refuses does not undo a search."""
    uri = store_uri(None, output)
    try:
        client = open_client(uri)
        with quiet():
            for name, value in outcome.test.items():
                client.log_metric(wanted.parent, name, value)
            for metric, value in (outcome.best[0].objectives if outcome.best else {}).items():
                client.log_metric(wanted.parent, recorded_name(metric), value)
            for file in files:
                client.log_artifact(wanted.parent, str(file))
            if outcome.complete:
                client.set_terminated(wanted.parent, "FINISHED")
    except Exception as error:  # the store is foreign code, and everything it would keep lies in files
        notify(without_passwords(f"the tracking store did not take the search's outcome: {str(error).splitlines()[0]}"))


