"""What is written down of a run, whatever keeps it: identity, numbers per step, and the form it is read back in."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from kdflow.errors import without_passwords
from kdflow.events import Hook, StepEvent

TEXTS = ("method", "bench", "dataset", "title", "paper", "fidelity", "student", "kind", "variant", "bench_variant", "pair")
HASHES = ("run_hash", "definition", "bench_hash")
SETS = {"nodes": "node", "rewires": "rewires", "knowledge": "knowledge", "needs": "needs"}


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """Identity of a run and what it is compared by. Words become tags, ``params`` and ``spec`` parameters.

    Attributes:
        method: Slug of the method.
        bench: Name of the bench.
        seed: Seed of the run.
        run_hash: Hash of all that determines the run (resolved spec, bench, seed, code). A run that goes on is found by it.
        definition: The same without the seed: runs of one definition are repetitions of each other. Empty: all runs of the
            method on the bench with the same overrides are.
        bench_hash: Hash of the resolved bench: gains are counted inside one.
        dataset: Name or format of the data.
        title: Title of the paper.
        paper: Its identifier.
        fidelity: What the formulas follow.
        families: Owner (``student``, ``teacher``, ...) -> family of its detector.
        detectors: Owner -> detector.
        student: The student in words (its backbone).
        kind: ``run``, or ``trial`` of a search.
        parent: MLflow id of the run that this one is nested in.
        terms: Term name (``kd/neck``, ``det/loss_box_reg``) -> its taxonomy nodes, the primary one first.
        rewires: Rewired nodes.
        knowledge: What the terms compare.
        needs: What the method asks for (``gt``, ``teacher_forward`` ...).
        overrides: Dotted path -> value, where the run departs from the method's file.
        bench_overrides: The same for the bench's file.
        params: Further facts (versions, threads, the teacher's AP).
        spec: The filled spec; its leaves become parameters.
        artifacts: Files to keep from the start.
    """

    method: str
    bench: str
    seed: int = 0
    run_hash: str = ""
    definition: str = ""
    bench_hash: str = ""
    dataset: str = ""
    title: str = ""
    paper: str = ""
    fidelity: str = ""
    families: Mapping[str, str] = field(default_factory=dict)
    detectors: Mapping[str, str] = field(default_factory=dict)
    student: str = ""
    kind: str = "run"
    parent: str = ""
    terms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rewires: tuple[str, ...] = ()
    knowledge: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    bench_overrides: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)
    artifacts: tuple[Path, ...] = ()

    @property
    def nodes(self) -> tuple[str, ...]:
        """Taxonomy nodes that the method's terms touch, in the order of the terms."""
        return tuple(dict.fromkeys(node for nodes in self.terms.values() for node in nodes))

    @property
    def variant(self) -> str:
        """The method's overrides in one line; empty for a method as its file has it."""
        return in_words(self.overrides)

    @property
    def bench_variant(self) -> str:
        """The bench's overrides in one line; empty for a bench as its file has it."""
        return in_words(self.bench_overrides)

    @property
    def pair(self) -> str:
        """How teacher and student relate; of several teachers the first one counts."""
        teacher = next((owner for owner in self.families if owner != "student"), None)
        if teacher is None or "student" not in self.families:
            return "teacher-free" if self.families else ""
        ours, theirs = self.families["student"], self.families[teacher]
        if (ours == "transformer") is not (theirs == "transformer"):
            return "cross-family"
        alike = ours == theirs and self.detectors.get("student") == self.detectors.get(teacher)
        return "homogeneous" if alike else "heterogeneous"

    def tags(self) -> dict[str, str]:
        """Flat words for a store: ``method``, ``seed``, ``kdflow.run_hash``, ``family.student``, ``node.cnn/neck`` ..."""
        tags = {name: str(getattr(self, name)) for name in TEXTS if getattr(self, name)}
        tags |= {f"kdflow.{name}": getattr(self, name) for name in HASHES if getattr(self, name)}
        tags |= {f"{prefix}.{value}": "true" for name, prefix in SETS.items() for value in getattr(self, name)}
        tags |= {f"family.{owner}": family for owner, family in self.families.items()}
        tags |= {f"detector.{owner}": detector for owner, detector in self.detectors.items()}
        return {key: without_passwords(value) for key, value in {**tags, "seed": str(self.seed)}.items()}


def in_words(overrides: Mapping[str, Any]) -> str:
    """``a.x=1, b=2``; values that are switched off (None) are left out."""
    return ", ".join(f"{path}={value}" for path, value in sorted(overrides.items()) if value is not None)


@dataclass(frozen=True)
class StoredRun:
    """A run as it is read back.

    Attributes:
        run_id: Its id in the store.
        status: ``finished``, ``running``, ``interrupted``, ``stopped`` or ``failed``.
        started: UTC time in ISO form.
        tags: As written by :meth:`RunFacts.tags`, and those of the tracker (``kdflow.split``, ``kdflow.weights``).
        metrics: The last value of each metric that is reported (:func:`is_reported`); names without a slash are the run's result.
    """

    run_id: str
    status: str
    started: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def result(self) -> dict[str, float]:
        """The reported numbers: metrics of the final evaluation that are known."""
        chosen = {name: value for name, value in self.metrics.items() if "/" not in name and name not in SPEED}
        return {name: value for name, value in chosen.items() if math.isfinite(value)}

    @property
    def classes(self) -> dict[str, float]:
        """AP by class on the split of the result; names as the store could keep them."""
        return self._below(f"{DETAILS}class/")

    def teacher(self, owner: str) -> dict[str, float]:
        """What a teacher reaches on the split of the result."""
        return self._below(f"{DETAILS}{owner}/")

    def _below(self, start: str) -> dict[str, float]:
        chosen = {name.removeprefix(start): value for name, value in self.metrics.items() if name.startswith(start)}
        return {name: value for name, value in chosen.items() if math.isfinite(value)}

    def named(self, prefix: str) -> tuple[str, ...]:
        """Values written as tags ``<prefix>.<value>``, in alphabetical order."""
        start = f"{prefix}."
        return tuple(sorted(key.removeprefix(start) for key in self.tags if key.startswith(start)))


DETAILS = "test/"
"""Begins the names of what stands beside the result: AP by class, and the teachers'."""
PEAK = "peak_memory_mib"
SPEED = frozenset({"lr", "step_time", "images_per_second", PEAK})
STATUSES: Mapping[str, str] = {
    "FINISHED": "finished", "FAILED": "failed", "KILLED": "interrupted", "RUNNING": "running", "SCHEDULED": "running",
}


def stored(run_id: str, status: str, start_time: int, tags: dict[str, str], metrics: Mapping[str, float]) -> StoredRun:
    """A run in kdflow's form, from what MLflow keeps of it (milliseconds since 1970, its own words for the status)."""
    started = datetime.fromtimestamp((start_time or 0) / 1000, UTC).isoformat(timespec="milliseconds")
    word = tags.get("kdflow.status") or STATUSES.get(status, status.lower())
    return StoredRun(run_id, word, started, tags, {name: value for name, value in metrics.items() if is_reported(name)})


def is_reported(name: str) -> bool:
    """True for the numbers that a run is reported by: its result, and below ``test/`` classes and teachers."""
    return "/" not in name or name.startswith(DETAILS)


class Tracker(Hook, Protocol):
    """A listener to the moments of a run that also takes its result and its files."""

    def finish(self, metrics: Mapping[str, float], artifacts: Iterable[Path] = (), split: str = "test") -> None:
        """The numbers that the run is reported by, and its files; the run is finished with them."""
        ...

    def text(self, name: str, content: str) -> None:
        """Keep a small text file (the filled spec, the graph, the evaluation)."""
        ...

    def file(self, path: Path, folder: str = "") -> None:
        """Keep a file."""
        ...


def step_metrics(event: StepEvent, terms: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
    """All numbers of a step by name.

    ``loss/total``; ``loss/det`` and ``loss/kd``, the sums of the detector's and the method's weighted terms;
    ``loss/<taxonomy node>``, the sum of the weighted terms whose primary node it is (these add up to ``loss/kd``);
    ``raw/<term>`` and ``weighted/<term>``; ``lr``, ``step_time`` in seconds, ``images_per_second``; on a GPU
    ``peak_memory_mib``.
    """
    sums = {"loss/total": event.total}
    for name, value in event.weighted.items():
        group = name.partition("/")[0]
        node = (terms.get(name) or ("",))[0] if group == "kd" else ""
        for key in filter(None, (group, node)):
            sums[f"loss/{key}"] = sums.get(f"loss/{key}", 0.0) + value
    return {
        **sums, **{f"raw/{name}": value for name, value in event.raw.items()},
        **{f"weighted/{name}": value for name, value in event.weighted.items()},
        "lr": event.lr, "step_time": event.step_time, "images_per_second": event.images_per_second,
        **({} if event.peak_memory is None else {PEAK: event.peak_memory}),
    }


def safe_name(name: str) -> str:
    """``name`` with the characters that stores refuse replaced by underscores."""
    return re.sub(r"[^\w\-. /:]", "_", name)[:250]


def flat(value: Any, path: str = "") -> dict[str, str]:
    """Leaves of nested mappings and lists as ``a.b[0]`` -> text, without passwords."""
    if isinstance(value, Mapping) and value:
        named = {f"{path}.{key}" if path else str(key): item for key, item in value.items()}
        return {k: v for key, item in named.items() for k, v in flat(item, key).items()}
    if isinstance(value, (list, tuple)) and any(isinstance(item, (Mapping, list, tuple)) for item in value):
        return {k: v for number, item in enumerate(value) for k, v in flat(item, f"{path}[{number}]").items()}
    return {path: without_passwords(str(value))}
