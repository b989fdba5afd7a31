"""Ranges over a bench: whether a search may change what they lead to, and whether the values are any."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kdflow.errors import SpecError, choices
from kdflow.ports import DETECTORS, Detector
from kdflow.spec.bench import Bench, DataSpec, DetectorSpec
from kdflow.spec.faults import validate
from kdflow.spec.load import Document
from kdflow.spec.method import SearchRange
from kdflow.spec.paths import BENCH_PATHS
from kdflow.spec.resolve import bench_of

SIZE = "data.size"
"""May be searched beside a teacher with a recipe, which is trained at the bench's own size in all trials."""
_FIXED = {
    "evaluation": "trials would be judged in different ways",
    "data": "trials would not be judged on the same images",
    "bench": "it is the name of the bench",
}


@dataclass(frozen=True)
class Ranges:
    """Judges ranges over a bench.

    Attributes:
        document: The bench's file.
        bench: The bench with all overrides.
        detectors: Student and teachers of the run.
        overrides: What was set of the bench.
    """

    document: Document
    bench: Bench
    detectors: Mapping[str, Detector]
    overrides: Mapping[str, Any]

    def problems(self, ranges: Mapping[str, SearchRange]) -> dict[str, str]:
        """Path of the bench -> why a search cannot have it; paths of the method are passed over."""
        of_bench = {path: entry for path, entry in ranges.items() if path.startswith(BENCH_PATHS)}
        return {path: problem for path, entry in of_bench.items() if (problem := self._problem(path, entry))}

    def _problem(self, path: str, entry: SearchRange) -> str:
        group, _, rest = path.partition(".")
        if group in _FIXED and not (group == "data" and _geometry(rest)):
            return f"{path} cannot be searched: {_FIXED[group]}"
        if is_elsewhere(path, self.bench):
            return ""
        owner, _ = _owned(path)
        if owner not in (None, "student") and (problem := self._of_teacher(path, str(owner), entry)):
            return problem
        return next((problem for value in values_of(entry) if (problem := self._of_value(path, value))), "")

    def _of_teacher(self, path: str, owner: str, entry: SearchRange) -> str:
        """Why a teacher's key cannot be searched."""
        if owner not in (teachers := self.bench.all_teachers):
            return f'the bench has no teacher "{owner}".{choices(owner, teachers)}'
        if owner not in self.detectors:
            return f"{path} has no effect: the method uses no teacher"
        if not entry.choices:
            return f"every value of {path} is another teacher, to be trained first; write choices, a pool of teachers"
        return ""

    def _of_value(self, path: str, value: Any) -> str:
        try:
            changed = bench_of(self.document, {**self.overrides, path: value})
        except SpecError as error:
            return _refused(path, value, error.faults[0].problem)
        owner, _ = _owned(path)
        if (spec := _spec(changed, owner)) is not None:
            problem = next(_option_problems(spec, str(owner)), "")
            return _refused(path, value, problem) if problem else ""
        return self._teachers_changed(path, changed)

    def _teachers_changed(self, path: str, changed: Bench) -> str:
        """Why teachers would be trained anew, though the path says nothing of them; empty where they would not."""
        before, after = (one.data.model_dump(mode="json", exclude=_UNSEEN) for one in (self.bench, changed))
        learners = [
            owner for owner, spec in self.bench.all_teachers.items()
            if owner in self.detectors and spec.recipe is not None and spec.weights is None
        ]
        if before == after or not learners:
            return ""
        words = " and ".join(learners)
        return (
            f"{path} changes the {words} as well, to be trained anew for every value. Next: give the {words} weights:, or leave "
            "the path out"
        )


def is_elsewhere(path: str, bench: Bench) -> bool:
    """True for an option that this detector does not have, while others do: it is left aside on this bench."""
    owner, key = _owned(path)
    spec = _spec(bench, owner)
    if spec is None or spec.detector not in DETECTORS or not key or key in type(spec).model_fields:
        return False
    return key not in DETECTORS.get(spec.detector).options.model_fields and key in _all_options()


def values_of(entry: SearchRange) -> tuple[Any, ...]:
    """Both ends of a range, or all choices."""
    return entry.choices or tuple(_whole(end) for end in (entry.low, entry.high))


def _whole(value: float | None) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _geometry(key: str) -> bool:
    """True for what says how pictures reach the detectors, and not which they are."""
    return key.partition(".")[0] in set(DataSpec.model_fields) - {"format"}


def _owned(path: str) -> tuple[str | None, str]:
    """Owner and option of a detector's path: ``student.depths``, ``teachers.large.backbone``."""
    parts = path.split(".")
    if parts[0] == "teachers" and len(parts) > 2:
        return parts[1], parts[2]
    return (parts[0], parts[1]) if parts[0] in ("student", "teacher") and len(parts) > 1 else (None, "")


def _spec(bench: Bench, owner: str | None) -> DetectorSpec | None:
    return bench.student if owner == "student" else bench.all_teachers.get(str(owner))


def _all_options() -> Collection[str]:
    return {key for name in DETECTORS.names() for key in DETECTORS.get(name).options.model_fields}


def _refused(path: str, value: Any, problem: str) -> str:
    return f"{path}: {problem}" if problem.startswith("unknown key") else f"{value} is no value of {path}: {problem}"


def _option_problems(spec: DetectorSpec, owner: str) -> Iterator[str]:
    if spec.detector not in DETECTORS:
        yield f'no detector "{spec.detector}".{choices(spec.detector, DETECTORS)}'
        return
    found = Document(owner)
    validate(DETECTORS.get(spec.detector).options, spec.options, found)
    yield from (fault.problem for fault in found.faults)


_UNSEEN = {"size", "workers", "resident"}
"""What of the data has no effect on a teacher; its size is that of the bench's file in all trials."""


def teacher_sizes(ranges: Mapping[str, SearchRange], bench: Bench) -> dict[str, int]:
    """Overrides that train each teacher at the bench's own size, where the student's is searched."""
    if SIZE not in ranges:
        return {}
    return {
        f"{'teacher' if owner == 'teacher' else f'teachers.{owner}'}.size": bench.data.size
        for owner, spec in bench.all_teachers.items() if spec.recipe is not None and spec.weights is None and spec.size is None
    }
