"""A comparison's file, read and checked without running anything: whatever follows from something else must follow from it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from kdflow.compare.content import Comparison, EntryRow, File, content_hash
from kdflow.compare.design import design, plain_values
from kdflow.compare.entries import PLAIN, RATE, TUNING_SEED
from kdflow.compare.judge import audit_of, best_trial, verdicts_of
from kdflow.errors import UsageError
from kdflow.escape import one_line
from kdflow.experiment.hashes import digest
from kdflow.results.record import METRICS
from kdflow.search.space import Space
from kdflow.spec.bench import Strict
from kdflow.spec.method import SearchRange

LARGEST = 64 * 2**20
"""Bytes of a file that is read."""
CLOSE = 1e-9


def read_file(path: Path) -> File:
    """A comparison's file, its form checked.

    Raises:
        UsageError: It cannot be read, or is no such file; with every place that is wrong.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise UsageError(f"{path} is larger than {LARGEST // 2**20} MiB, which no comparison is")
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read: {_short(error)}") from None
    if not isinstance(content, dict) or content.get("kind") != "comparison":
        raise UsageError(f"{path} is no file of kdflow compare: it has no kind: comparison")
    try:
        return File.model_validate(content)
    except ValidationError as error:
        faults = [f"{path}  {_place(fault['loc'])}: {one_line(fault['msg'])}" for fault in error.errors()[:20]]
        raise UsageError("\n".join(faults)) from None


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _place(loc: tuple[int | str, ...]) -> str:
    return one_line(".".join(map(str, loc)))[:200] or "the file"


def faults_of(file: File) -> list[str]:
    """What in a file does not follow from the rest of it; empty for a file that kdflow wrote and nobody changed."""
    comparison = file.comparison
    found = [*_structure(comparison)]
    if found:
        return found
    for entry in comparison.entries:
        found += _entry(entry, comparison)
    if not _equal(audit_of(comparison.entries), comparison.audit):
        found.append("audit: it does not follow from what the runs have seen")
    verdicts = verdicts_of(comparison.entries, comparison.settings.metric, comparison.settings.against)
    if not _equal(verdicts, comparison.verdicts):
        found.append("verdicts: they do not follow from the runs")
    if content_hash(comparison) != file.content:
        found.append("content: the hash is not that of the comparison, so something was changed after it was written")
    if strange := set(file.costs) - {entry.name for entry in comparison.entries}:
        found.append(f"costs: no entry is called {', '.join(sorted(strange))}")
    return [one_line(fault) for fault in found]


def warnings_of(file: File) -> list[str]:
    """What is true of the comparison and weakens it."""
    comparison, found = file.comparison, []
    for row in comparison.audit:
        if not row.same:
            found.append(f"not every entry had the same {row.what}")
    for entry in comparison.entries:
        if failed := [run for run in entry.runs if run.failure]:
            found.append(f"{entry.name}: {len(failed)} of {len(entry.runs)} runs did not finish: {failed[0].failure}")
        if not entry.values_of(comparison.settings.metric):
            found.append(f"{entry.name}: no run finished")
        if failed_trials := sum(bool(trial.failures) for trial in entry.trials):
            found.append(f"{entry.name}: {failed_trials} of {len(entry.trials)} trials did not finish")
        found += _at_the_edge(entry)
    if len(comparison.settings.seeds) < 3:
        found.append(f"{len(comparison.settings.seeds)} seeds: an interval of fewer than three is worth little")
    return [one_line(words) for words in found]


def _at_the_edge(entry: EntryRow) -> Iterator[str]:
    """The best learning rate is the least or the largest that was tried: a wider range may have a better one."""
    tried = [trial.values[RATE] for trial in entry.trials if isinstance(trial.values.get(RATE), (int, float))]
    chosen = entry.values.get(RATE)
    if len(set(tried)) > 2 and chosen in (min(tried), max(tried)):
        side = "largest" if chosen == max(tried) else "least"
        yield f"{entry.name}: its learning rate, {chosen:g}, is the {side} that was tried"


def _structure(comparison: Comparison) -> Iterator[str]:
    settings, names = comparison.settings, [entry.name for entry in comparison.entries]
    if settings.metric not in METRICS:
        yield f"settings.metric: {settings.metric} is no metric"
    if len(set(names)) != len(names):
        yield "entries: two have one name"
    if names[0] != PLAIN or [n for n, entry in enumerate(comparison.entries) if entry.kind == "plain"] != [0]:
        yield f"entries: the first one, and no other, is the {PLAIN}"
    if settings.seeds != tuple(range(len(settings.seeds))) or not settings.seeds:
        yield "settings.seeds: they are 0, 1, 2 and so on"
    if not settings.tuning_seeds or settings.tuning_seeds[0] != TUNING_SEED or set(settings.tuning_seeds) & set(settings.seeds):
        yield f"settings.tuning_seeds: they begin at {TUNING_SEED}, and none of them is measured"
    methods = [entry.name for entry in comparison.entries if entry.kind == "method"]
    if missing := [name for name in settings.against if name not in methods]:
        yield f"settings.against: no method is called {missing[0]}"
    for entry in comparison.entries:
        if entry.follows and entry.follows not in methods:
            yield f"{entry.name}: it follows {entry.follows}, which is no method here"


def _entry(entry: EntryRow, comparison: Comparison) -> Iterator[str]:
    yield from _tuning(entry, comparison)
    seeds = [run.seed for run in entry.runs]
    if entry.runs and tuple(seeds) != comparison.settings.seeds:
        yield f"{entry.name}: its runs have the seeds {seeds}, not {list(comparison.settings.seeds)}"
    for run in entry.runs:
        if entry.made_of and run.hash and digest({**entry.made_of, "seed": run.seed}) != run.hash:
            yield f"{entry.name}, seed {run.seed}: the run's hash is not that of what the entry says it is made of"
        if entry.made_of and not run.failure and run.seen and run.seen.get("data") != entry.made_of.get("data"):
            yield f"{entry.name}, seed {run.seed}: the data that it saw are not those that it is made of"
        if any(not 0 <= value <= 100 for row in (run.metrics, *run.teachers.values()) for value in row.values()):
            yield f"{entry.name}, seed {run.seed}: a metric is no percentage"
    if entry.runs and not entry.made_of:
        yield f"{entry.name}: it does not say what its runs are made of"


def _tuning(entry: EntryRow, comparison: Comparison) -> Iterator[str]:
    """The same budget for everyone, at the values of the design, and the best one chosen."""
    budget = comparison.settings.budget
    if entry.follows:
        source = comparison.entry(entry.follows)
        if entry.trials or entry.values != source.values:
            yield f"{entry.name}: it has the values of {entry.follows}, and no trials of its own"
        return
    if budget == 1 and not entry.space:
        if entry.trials:
            yield f"{entry.name}: it has trials, but nothing to tune"
        return
    if len(entry.trials) != budget:
        yield f"{entry.name}: {len(entry.trials)} trials, where every entry has {budget}"
        return
    try:
        ranges = {path: SearchRange.model_validate(known) for path, known in entry.space.items()}
        points = [plain_values(point) for point in design(Space(ranges, entry.declared), budget)]
    except (ValueError, TypeError, ArithmeticError) as error:
        yield f"{entry.name}: its ranges cannot be read: {_short(error)}"
        return
    if [trial.number for trial in entry.trials] != list(range(budget)):
        yield f"{entry.name}: its trials are not numbered 0, 1, 2 and so on"
        return
    for trial, point in zip(entry.trials, points, strict=True):
        if not _equal(trial.values, point):
            yield f"{entry.name}, trial {trial.number}: its values are not those of the design"
        if trial.validation.keys() | trial.failures.keys() != set(comparison.settings.tuning_seeds):
            yield f"{entry.name}, trial {trial.number}: it does not have every tuning seed"
    best = best_trial(entry.trials, comparison.settings.tuning_seeds)
    if best != entry.chosen:
        yield f"{entry.name}: trial {best} is the best on validation, not {entry.chosen}"
    elif best is not None and not _equal(entry.values, entry.trials[best].values):
        yield f"{entry.name}: its values are not those of the trial that it chose"
    if best is None and entry.runs:
        yield f"{entry.name}: it has runs, but no trial finished"


def _equal(one: Any, other: Any) -> bool:
    """Equal but for the last digits of numbers."""
    if isinstance(one, Strict) and isinstance(other, Strict):
        return type(one) is type(other) and _equal(one.model_dump(), other.model_dump())
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, float) or isinstance(other, float):
        numbers = isinstance(one, (int, float)) and isinstance(other, (int, float))
        return numbers and math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE)
    return bool(one == other)

