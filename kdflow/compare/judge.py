"""What follows from the runs: the values that tuning chose, the audit, the verdicts. Used to write a file and to check one."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdflow.compare.content import AuditRow, EntryRow, RunRow, TrialRow, VerdictRow
from kdflow.compare.entries import LONGER, RANDOM
from kdflow.compare.statistics import CONFIDENCE, Paired, holm, paired, reach, seeds_to_decide, word

UNKNOWN = "not known"
NONE = 1e-6
"""Points of a metric that are no difference."""


def best_trial(trials: Sequence[TrialRow], seeds: Sequence[int]) -> int | None:
    """The trial of the largest mean on validation, of those whose every seed finished; of equals the first."""
    means = {t.number: statistics.fmean(t.validation[s] for s in seeds) for t in trials if set(seeds) <= t.validation.keys()}
    return max(means, key=lambda number: (means[number], -number)) if means else None


def verdicts_of(entries: Sequence[EntryRow], metric: str, against: Sequence[str]) -> tuple[VerdictRow, ...]:
    """Every entry against the plain student, and the methods against those that are named.

    Holm's correction is made within one family: methods against one reference, or controls against the plain student.
    """
    plain, others = entries[0], entries[1:]
    found: list[VerdictRow] = []
    for kind in ("method", "control"):
        members = [entry for entry in others if entry.kind == kind]
        found += _family(members, plain, metric, f"{kind}s against the {plain.name}")
    for name in against:
        reference = next(entry for entry in others if entry.name == name)
        rivals = [entry for entry in others if entry.kind == "method" and entry is not reference]
        found += _family(rivals, reference, metric, f"methods against {name}")
    return tuple(found)


def _family(members: Sequence[EntryRow], reference: EntryRow, metric: str, family: str) -> list[VerdictRow]:
    theirs = reference.values_of(metric)
    pairs = []
    for entry in members:
        own = entry.values_of(metric)
        seeds = tuple(sorted(own.keys() & theirs.keys()))
        pairs.append((entry, seeds, tuple(own[s] - theirs[s] for s in seeds)))
    tests = [paired(differences) if differences else None for _, _, differences in pairs]
    adjusted = holm([test.p if test else 1.0 for test in tests])
    return [
        _row(entry, reference, family, seeds, differences, test, chance)
        for (entry, seeds, differences), test, chance in zip(pairs, tests, adjusted, strict=True)
    ]


def _row(
    entry: EntryRow,
    reference: EntryRow,
    family: str,
    seeds: tuple[int, ...],
    differences: tuple[float, ...],
    test: Paired | None,
    adjusted: float,
) -> VerdictRow:
    base = VerdictRow(entry=entry.name, against=reference.name, family=family, seeds=seeds, differences=differences)
    if test is None:
        return base.model_copy(update={"turn": "no seed of both has finished"})
    verdict = word(test.mean, adjusted)
    return base.model_copy(update={
        "mean": test.mean, "spread": test.spread, "low": test.low, "high": test.high, "p": test.p, "adjusted": adjusted,
        "verdict": verdict, "turn": turn(test, adjusted),
    })


def turn(test: Paired, adjusted: float) -> str:
    """What would change the verdict, in words."""
    if test.spread is None or test.low is None or test.high is None:
        return "one seed has no spread: any verdict needs two, and three to be worth much"
    verdict = word(test.mean, adjusted)
    if verdict != "undecided":
        nearest = min(abs(test.low), abs(test.high))
        return f"a mean nearer to 0 by {nearest:.2f} (the interval would reach 0), or a larger spread between seeds"
    if test.p < 1 - CONFIDENCE:
        return f"fewer comparisons in this family: alone it would be decided (p {test.p:.3f}, corrected {adjusted:.3f})"
    if abs(test.mean) < NONE and test.spread < NONE:
        return "another outcome altogether: the two were equal at every seed"
    needed = seeds_to_decide(test)
    least = reach(test.count, test.spread)
    start = f"{test.count} seeds of this spread tell {least:.2f} from 0"
    if needed is None:
        return f"{start}; no number of seeds worth running would tell this mean"
    return f"{start}; at this mean and spread {needed} seeds would decide, before any correction"


def audit_of(entries: Sequence[EntryRow]) -> tuple[AuditRow, ...]:
    """Whether every measured run had the same teacher, data, first weights, batches, steps and images."""
    known = [(entry, run) for entry in entries for run in entry.runs if not run.failure]
    rows = [
        _same("data", known, lambda run: run.seen.get("data"), {}),
        _same("teacher", known, lambda run: _teachers(run, "identity"), _untaught(entries) | _random(entries)),
        _same("weights of the teacher", known, lambda run: _teachers(run, "weights"), _untaught(entries) | _random(entries)),
        _by_seed("first weights of the student", known, lambda run: run.seen.get("student")),
        _by_seed("batches", known, lambda run: run.seen.get("batches")),
        _same("steps", known, lambda run: run.seen.get("steps"), _longer(entries)),
        _same("images seen", known, lambda run: run.seen.get("images"), _longer(entries)),
    ]
    return tuple(rows)


Known = Sequence[tuple[EntryRow, RunRow]]


def _teachers(run: RunRow, key: str) -> Any:
    teachers = run.seen.get("teachers")
    if teachers is None:
        return None
    return ", ".join(f"{owner} {facts.get(key)}" for owner, facts in sorted(teachers.items())) or "none"


def _untaught(entries: Sequence[EntryRow]) -> dict[str, str]:
    """Entries without a teacher, by what their runs are made of."""
    return {entry.name: "it has no teacher" for entry in entries if not entry.made_of.get("teachers")}


def _random(entries: Sequence[EntryRow]) -> dict[str, str]:
    return {e.name: "its teacher has learned nothing" for e in entries if e.kind == "control" and e.name.endswith(f", {RANDOM}")}


def _longer(entries: Sequence[EntryRow]) -> dict[str, str]:
    return {e.name: e.note for e in entries if e.kind == "control" and e.name == LONGER}


def _same(what: str, known: Known, value: Callable[[RunRow], Any], meant: Mapping[str, str]) -> AuditRow:
    held: dict[str, list[str]] = defaultdict(list)
    for entry, run in known:
        words = UNKNOWN if value(run) is None else str(value(run))
        if entry.name not in held[words]:
            held[words].append(entry.name)
    counted = {words for words, names in held.items() if any(name not in meant for name in names)}
    values = {words: tuple(names) for words, names in held.items()}
    return AuditRow(what=what, same=len(counted) <= 1 and UNKNOWN not in counted, values=values, meant=dict(meant))


def _by_seed(what: str, known: Known, value: Callable[[RunRow], Any]) -> AuditRow:
    """The same for all entries at each seed, and another for each seed."""
    seeds = sorted({run.seed for _, run in known})
    rows = [(seed, _same(what, [(e, r) for e, r in known if r.seed == seed], value, {})) for seed in seeds]
    values = {f"seed {seed}: {words}": names for seed, row in rows for words, names in row.values.items()}
    return AuditRow(what=what, same=all(row.same for _, row in rows), values=values)
