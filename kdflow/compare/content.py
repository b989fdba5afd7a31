"""The file of a comparison: what it holds, and what in it follows from the rest.

Measured times and memory stand beside the comparison, not in it: they differ from one execution to the next.
"""

from __future__ import annotations

import statistics
from typing import Any, Literal

from pydantic import Field

from kdflow.compare.statistics import Word
from kdflow.experiment.hashes import digest
from kdflow.spec.bench import Strict

SCHEMA: Literal[1] = 1
NAME = r"^[^\x00-\x1f]{1,300}$"

Metrics = dict[str, float]


class TrialRow(Strict):
    """One trial of an entry's tuning.

    Attributes:
        number: 0 has the declared values.
        values: Dotted path -> value.
        validation: Seed -> the metric on the validation split, in percent; absent where the run failed.
        failures: Seed -> why.
    """

    number: int = Field(ge=0)
    values: dict[str, Any]
    validation: dict[int, float]
    failures: dict[int, str] = Field(default_factory=dict)


class RunRow(Strict):
    """One measured run.

    Attributes:
        seed: Seed.
        hash: Identity of the run.
        metrics: On the test split, in percent; empty where it failed.
        validation: On the validation split.
        failure: Why it did not finish.
        seen: What it learned from, as it lay in memory.
        teachers: Teacher -> its own metrics on the test split.
    """

    seed: int
    hash: str
    metrics: Metrics
    validation: Metrics
    failure: str = ""
    seen: dict[str, Any] = Field(default_factory=dict)
    teachers: dict[str, Metrics] = Field(default_factory=dict)


class EntryRow(Strict):
    """One that took part.

    Attributes:
        name: Its name.
        kind: ``plain``, ``method`` or ``control``.
        method: Slug.
        title: Of the paper.
        nodes: Taxonomy nodes.
        note: What a reader must know.
        follows: The entry whose tuned values it takes.
        space: Dotted path -> range.
        declared: The values that spec and bench hold, where they lie in their range.
        trials: Its tuning.
        chosen: Number of the best trial; None without trials, or where all failed.
        values: Dotted path -> value in the measured runs.
        made_of: What the measured runs' hashes are made of, without the seed.
        added_parameters: Weights that the exported student does not have.
        runs: By seed.
    """

    name: str = Field(pattern=NAME)
    kind: Literal["plain", "method", "control"]
    method: str = Field(pattern=NAME)
    title: str = ""
    nodes: tuple[str, ...] = ()
    note: str = ""
    follows: str = ""
    space: dict[str, Any] = Field(default_factory=dict)
    declared: dict[str, Any] = Field(default_factory=dict)
    trials: tuple[TrialRow, ...] = ()
    chosen: int | None = None
    values: dict[str, Any] = Field(default_factory=dict)
    made_of: dict[str, Any] = Field(default_factory=dict)
    added_parameters: int = 0
    runs: tuple[RunRow, ...] = ()

    def values_of(self, metric: str) -> dict[int, float]:
        """Seed -> the metric, of the runs that finished."""
        return {run.seed: run.metrics[metric] for run in self.runs if not run.failure and metric in run.metrics}

    def in_words(self, metric: str) -> str:
        """Mean and standard deviation over the seeds that finished: ``44.39 ± 1.30``."""
        values = list(self.values_of(metric).values())
        if not values:
            return "failed"
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        return f"{statistics.fmean(values):.2f}{spread}"


class VerdictRow(Strict):
    """What the numbers say of two entries.

    Attributes:
        entry: The one.
        against: The other.
        family: Entries that this one shares a correction with.
        seeds: Seeds that both have.
        differences: Their differences, in points of the metric.
        mean: Mean difference.
        spread: Standard deviation of the differences.
        low: Lower end of the mean's 95 % interval, of this difference alone.
        high: Upper end.
        p: Chance of such a mean where there is no difference, of this difference alone.
        adjusted: The same with Holm's correction for the whole family.
        verdict: ``better``, ``worse`` or ``undecided``.
        turn: What would change the verdict.
    """

    entry: str
    against: str
    family: str
    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    mean: float | None = None
    spread: float | None = None
    low: float | None = None
    high: float | None = None
    p: float = 1.0
    adjusted: float = 1.0
    verdict: Word = "undecided"
    turn: str = ""

    @property
    def in_words(self) -> str:
        """The mean difference and its interval: ``+2.52 (+0.48 to +4.57)``; empty where no seed has both."""
        if self.mean is None:
            return ""
        around = "" if self.low is None or self.high is None else f" ({self.low:+.2f} to {self.high:+.2f})"
        return f"{self.mean:+.2f}{around}"


class AuditRow(Strict):
    """Whether every entry had the same of one thing.

    Attributes:
        what: The thing.
        same: Every entry had the same, but for those that are meant not to.
        values: Value -> entries that had it, where there are several.
        meant: Entries that are meant to differ, with the reason.
    """

    what: str
    same: bool
    values: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    meant: dict[str, str] = Field(default_factory=dict)


class Settings(Strict):
    """What was asked for.

    Attributes:
        command: The command that repeats it.
        seeds: Measured seeds.
        tuning_seeds: Seeds that values were tuned on.
        budget: Trials of every entry.
        metric: What is compared.
        against: Methods that others were compared with.
        controls: Controls that were asked for.
        overrides: What was set in every run.
    """

    command: str
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    budget: int = Field(ge=1)
    metric: str
    against: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    overrides: dict[str, Any] = Field(default_factory=dict)

    @property
    def in_words(self) -> str:
        """How much was run."""
        if self.budget == 1:
            return f"{len(self.seeds)} seeds, nothing tuned"
        return f"{len(self.seeds)} seeds, {self.budget} trials of tuning for each entry on {len(self.tuning_seeds)} other seed(s)"


class Comparison(Strict):
    """Everything that follows from methods, bench, code and seeds, and nothing that differs between two executions.

    Attributes:
        bench: Name.
        bench_hash: Hash of bench and data.
        title: The bench's.
        family: Of the student.
        student: Its detector.
        teacher: The teachers' detectors.
        dataset: Format of the data.
        floor: AP50 below which the bench counts as broken, where it states one.
        versions: Package -> version.
        settings: What was asked for.
        entries: The plain student first.
        left_out: Name -> why it did not take part.
        audit: What every entry had the same of.
        verdicts: What the numbers say.
    """

    bench: str = Field(pattern=NAME)
    bench_hash: str
    title: str = ""
    family: str = ""
    student: str = ""
    teacher: str = ""
    dataset: str = ""
    floor: float | None = None
    versions: dict[str, str]
    settings: Settings
    entries: tuple[EntryRow, ...] = Field(min_length=2)
    left_out: dict[str, str] = Field(default_factory=dict)
    audit: tuple[AuditRow, ...] = ()
    verdicts: tuple[VerdictRow, ...] = ()

    def taught_by(self) -> dict[str, float]:
        """Teacher -> its own value of the metric, as the methods' runs have measured it."""
        rows = [run.teachers for entry in self.entries if entry.kind == "method" for run in entry.runs]
        metric = self.settings.metric
        return {owner: known[metric] for row in rows for owner, known in row.items() if metric in known}

    @property
    def name(self) -> str:
        """The bench, and what was set in every run: ``shapes-gfl, recipe.calibrate=true``."""
        changed = self.settings.overrides.items()
        words = (f"{path}={str(value).lower() if isinstance(value, bool) else value}" for path, value in changed)
        return ", ".join([self.bench, *words])

    @property
    def teachers_in_words(self) -> list[str]:
        """What each teacher reaches, how far that is above the plain student, and how far the latter's seeds spread."""
        metric, plain = self.settings.metric, list(self.entries[0].values_of(self.settings.metric).values())
        found = []
        for owner, value in self.taught_by().items():
            words = f"the {owner} itself: {value:.2f} {metric}"
            if plain:
                words += f", {value - statistics.fmean(plain):+.2f} against the plain student"
            if len(plain) > 1:
                words += f", whose seeds spread {statistics.stdev(plain):.2f}"
            found.append(words)
        return found

    def entry(self, name: str) -> EntryRow:
        """The entry of this name; raises KeyError."""
        return {entry.name: entry for entry in self.entries}[name]


class CostRow(Strict):
    """What a training step of an entry takes, all entries measured in one process.

    Attributes:
        step_ms: Median milliseconds.
        memory_mib: On a GPU the largest memory of a step; on a CPU the bytes that a step keeps for its backward pass.
        teacher_stages: Stages of teachers that run.
    """

    step_ms: float | None = Field(default=None, gt=0, le=1e9)
    memory_mib: float | None = Field(default=None, ge=0, le=1e9)
    teacher_stages: tuple[str, ...] = ()


class File(Strict):
    """The whole file.

    Attributes:
        kdflow: Version of this format.
        kind: Always ``comparison``.
        content: Hash of ``comparison``.
        comparison: What was compared, and what it brought.
        costs: Entrant -> cost of a step.
        measured_on: Machine and date of the costs.
    """

    kdflow: Literal[1] = SCHEMA
    kind: Literal["comparison"] = "comparison"
    content: str
    comparison: Comparison
    costs: dict[str, CostRow] = Field(default_factory=dict)
    measured_on: dict[str, str] = Field(default_factory=dict)


def content_hash(comparison: Comparison) -> str:
    """Hash of everything that two executions have in common."""
    return digest(comparison.model_dump(mode="json"))
