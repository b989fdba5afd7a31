"""Which part of a method brings its gain: each taxonomy node left out, and each alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdflow.errors import UsageError
from kdflow.experiment.reading import read_method
from kdflow.experiment.request import with_length
from kdflow.experiment.session import Preview, Session
from kdflow.experiment.setup import prepare
from kdflow.experiment.shelf import Shelf
from kdflow.experiment.sweep import Job, JobResult, checked_jobs, summary

FULL, NONE = "all terms", "no term"


@dataclass(frozen=True)
class Part:
    """A taxonomy node of a method.

    Attributes:
        node: Id of the node; terms count at their primary one.
        terms: Names of its terms.
    """

    node: str
    terms: tuple[str, ...]

    @property
    def without(self) -> str:
        """Label of the run that leaves it out."""
        return f"without {self.node}"

    @property
    def alone(self) -> str:
        """Label of the run that has nothing else."""
        return f"only {self.node}"


@dataclass(frozen=True)
class Contribution:
    """What a node brings, in points of a metric; None where a run is missing.

    Attributes:
        node: Id of the node.
        terms: Its terms.
        alone: Gain over the student without any term, with only this node.
        lost: What the whole method loses without it.
        alone_value: The metric with only this node.
        without_value: The metric without it.
    """

    node: str
    terms: tuple[str, ...]
    alone: float | None
    lost: float | None
    alone_value: float | None
    without_value: float | None


@dataclass(frozen=True)
class Ablation:
    """A method taken apart.

    Attributes:
        metric: What is compared.
        full: The whole method.
        none: The student with every term's weight at 0.
        parts: Nodes, the one that brings most first.
        verdict: One sentence.
    """

    metric: str
    full: float | None
    none: float | None
    parts: tuple[Contribution, ...]
    verdict: str
    spreads: Mapping[str, float] = field(default_factory=dict)


def plan_ablation(
    spec: str,
    bench: str | None,
    seeds: Iterable[int],
    overrides: Mapping[str, Any],
    *,
    steps: int | None = None,
    session: Session | Preview | None = None,
) -> tuple[list[Part], list[Job]]:
    """The method's taxonomy nodes, and the runs that tell them apart: all, none, each left out, each alone.

    Weights are set to 0, so that everything else (adapters, random streams, data) stays as it is. With one or two nodes
    some of these runs are the same; they are run once.

    Raises:
        SpecError: The method does not compile.
        UsageError: It has no distillation term.
    """
    method, common = read_method(spec), with_length(overrides, steps)
    looks, shelf = session or Preview(), Shelf()
    setting = prepare(method, bench, overrides=common, shelf=shelf)
    grouped: dict[str, list[str]] = {}
    for term in setting.plan.terms:
        if term.is_distillation:
            grouped.setdefault(term.nodes[0] if term.nodes else "unplaced", []).append(term.name.removeprefix("kd/"))
    if not grouped:
        raise UsageError(f"{setting.method.method} has no distillation term, so there is nothing to leave out")
    parts = [Part(node, tuple(terms)) for node, terms in grouped.items()]
    every = {term for part in parts for term in part.terms}
    dropped: dict[str, set[str]] = {FULL: set(), NONE: every}
    for part in parts:
        dropped |= {part.without: set(part.terms), part.alone: every - set(part.terms)}
    jobs, every_seed = list[Job](), list(seeds)
    for label, terms in dropped.items():
        zeros = {f"terms.{term}.weight": 0.0 for term in sorted(terms)}
        jobs += checked_jobs(Job(spec, bench, 0, {**common, **zeros}, label=label), every_seed, looks, shelf, method)
    return parts, jobs


def distinct(jobs: Sequence[Job]) -> list[Job]:
    """Jobs that are different runs."""
    found: dict[str, Job] = {}
    for job in jobs:
        found.setdefault(job.hash or f"{job.label} {job.seed}", job)
    return list(found.values())


def shared(jobs: Sequence[Job], results: Iterable[JobResult]) -> list[JobResult]:
    """A result for every job, where equal runs were carried out once."""
    by_hash = {result.job.hash: result for result in results}
    return [
        JobResult(job, r.status, r.metrics, r.reason, r.reused, r.folder)
        for job in jobs if (r := by_hash.get(job.hash)) is not None
    ]


def judge(parts: Sequence[Part], results: Iterable[JobResult], metric: str = "AP") -> Ablation:
    """Who brings the gain, from means over seeds.

    Args:
        parts: The nodes.
        results: Of every job, see :func:`shared`.
        metric: What is compared, on the test split.
    """
    rows = {row.setting: row for row in summary(results)}
    means = {label: row.mean.get(metric) for label, row in rows.items()}
    spreads = {label: row.spread[metric] for label, row in rows.items() if metric in row.spread}
    full, none = means.get(FULL), means.get(NONE)
    found = [
        Contribution(
            part.node, part.terms, _minus(means.get(part.alone), none), _minus(full, means.get(part.without)),
            means.get(part.alone), means.get(part.without),
        )
        for part in parts
    ]
    ranked = sorted(found, key=lambda c: -(c.lost if c.lost is not None else float("-inf")))
    return Ablation(metric, full, none, tuple(ranked), _verdict(metric, full, none, ranked), spreads)


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _verdict(metric: str, full: float | None, none: float | None, ranked: Sequence[Contribution]) -> str:
    gain = _minus(full, none)
    if gain is None:
        return f"the gain in {metric} is not known, because runs are missing"
    start = f"the method brings {gain:+.2f} {metric}"
    if len(ranked) == 1:
        return f"{start}, all of it at {ranked[0].node}"
    first = ranked[0]
    if first.lost is None:
        return f"{start}; which node brings it is not known, because runs are missing"
    if gain <= 0 or first.lost <= 0:
        return f"{start}; no node is missed when it is left out"
    alone = "" if first.alone is None else f", and alone it brings {first.alone:+.2f}"
    return f"{start}; {first.node} brings most of it: without it {-first.lost:+.2f}{alone}"
