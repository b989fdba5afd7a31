"""Ranges over a bench: whether a search may change what they lead to, and whether the values are any."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from kdflow.errors import SpecError, choices
from kdflow.ports import DETECTORS, Detector
from kdflow.spec.bench import Bench, DataSpec, DetectorSpec
from kdflow.spec.faults import validate
from kdflow.spec.load import Document
from kdflow.spec.method import SearchRange
from kdflow.spec.resolve import BENCH_PATHS, bench_of

SIZE = "data.size"
"""May be searched beside a teacher with a recipe, which is trained at the bench's own size in all trials."""
_FIXED = {
    "evaluation": "trials would be judged in different ways",
    "data": "trials would not be judged on the same images",
    "bench": "it is the name of the bench",
}


def range_problems(
    ranges: Mapping[str, SearchRange],
    document: Document,
    bench: Bench,
    detectors: Mapping[str, Detector],
    overrides: Mapping[str, Any],
) -> dict[str, str]:
    """Path of the bench -> why a search cannot have it.

    Args:
        ranges: Dotted path -> range; paths of the method are passed over.
        document: The bench's file.
        bench: The bench with all overrides.
        detectors: Student and teachers of the run.
        overrides: What was set of the bench.
    """
    of_bench = {path: entry for path, entry in ranges.items() if path.startswith(BENCH_PATHS)}
    found = {path: _problem(path, entry, document, bench, detectors, overrides) for path, entry in of_bench.items()}
    return {path: problem for path, problem in found.items() if problem}


def is_elsewhere(path: str, bench: Bench) -> bool:
    """True for an option that this detector does not have, while others do: it is left aside on this bench."""
    owner, key = _owned(path)
    spec = _spec(bench, owner)
    if spec is None or spec.detector not in DETECTORS or not key or key in type(spec).model_fields:
        return False
    return key not in DETECTORS.get(spec.detector).options.model_fields and key in _all_options()


def _problem(
    path: str,
    entry: SearchRange,
    document: Document,
    bench: Bench,
    detectors: Mapping[str, Detector],
    overrides: Mapping[str, Any],
) -> str:
    group, _, rest = path.partition(".")
    if group in _FIXED and not (group == "data" and _geometry(rest)):
        return f"{path} cannot be searched: {_FIXED[group]}"
    if is_elsewhere(path, bench):
        return ""
    owner, _ = _owned(path)
    if owner not in (None, "student") and (problem := _of_teacher(path, owner, entry, bench, detectors)):
        return problem
    for value in values_of(entry):
        if problem := _value_problem(path, value, document, bench, detectors, overrides):
            return problem
    return ""


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


def _of_teacher(
    path: str, owner: str | None, entry: SearchRange, bench: Bench, detectors: Mapping[str, Detector]
) -> str:
    """Why a teacher's key cannot be searched."""
    teachers = bench.all_teachers
    if owner not in teachers:
        return f'the bench has no teacher "{owner}".{choices(str(owner), teachers)}'
    if owner not in detectors:
        return f"{path} has no effect: the method uses no teacher"
    if not entry.choices:
        return f"every value of {path} is another teacher, to be trained first; write choices, a pool of teachers"
    return ""


def _value_problem(
    path: str,
    value: Any,
    document: Document,
    bench: Bench,
    detectors: Mapping[str, Detector],
    overrides: Mapping[str, Any],
) -> str:
    try:
        changed = bench_of(document, {**overrides, path: value})
    except SpecError as error:
        return _refused(path, value, error.faults[0].problem)
    owner, _ = _owned(path)
    if (spec := _spec(changed, owner)) is not None:
        problem = next(_option_problems(spec, str(owner)), "")
        return _refused(path, value, problem) if problem else ""
    return _teachers_changed(path, bench, changed, detectors)


def _refused(path: str, value: Any, problem: str) -> str:
    return f"{path}: {problem}" if problem.startswith("unknown key") else f"{value} is no value of {path}: {problem}"


def _option_problems(spec: DetectorSpec, owner: str) -> Iterator[str]:
    if spec.detector not in DETECTORS:
        yield f'no detector "{spec.detector}".{choices(spec.detector, DETECTORS)}'
        return
    found = Document(owner)
    validate(DETECTORS.get(spec.detector).options, spec.options, found)
    yield from (fault.problem for fault in found.faults)


def _teachers_changed(path: str, bench: Bench, changed: Bench, detectors: Mapping[str, Detector]) -> str:
    """Why teachers would be trained anew, though the path says nothing of them; empty where they would not."""
    before, after = (one.data.model_dump(mode="json", exclude=_UNSEEN) for one in (bench, changed))
    learners = [
        owner for owner, spec in bench.all_teachers.items()
        if owner in detectors and spec.recipe is not None and spec.weights is None
    ]
    if before == after or not learners:
        return ""
    words = " and ".join(learners)
    return (
        f"{path} changes the {words} as well, to be trained anew for every value. Next: give the {words} weights:, or leave the "
        "path out"
    )


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
