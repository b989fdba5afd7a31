"""What a run brought, and the file that says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from kdflow.files import read_json

RESULT = "result.json"
"""Written last of all: a folder that has it holds a finished run, whose record is complete."""


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
        run_hash: Identity of the run; empty in results of older versions.
        pulls: How many times as hard as the detector's losses each term pulled at the student when the run began.
        classes: Class -> number of ``objects`` in the test split, and its AP family in percent.
        teachers: Teacher -> ``metrics`` and ``classes`` of its own on the test split, its ``identity``, and
            ``detections``, the file that has what it found there.
        seen: What it learned from, as it lay in memory: ``data``, ``teachers`` (owner -> ``identity``, ``weights``), the first
            weights of the ``student``, ``batches``, ``steps`` and ``images``; empty in results of older versions.
        pictures: How pictures were treated (:class:`kdflow.student.pictures.Pictures`).
        costs: Costs of the student that were asked for (``flops``, ``parameters``).
        peak_memory_mib: Most memory of the GPU that the training took, in MiB, teachers included; of students that train together
            that of all. None on a CPU, where it is not measured.
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
    run_hash: str = ""
    pulls: Mapping[str, float] = field(default_factory=dict)
    classes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    teachers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seen: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, Any] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    peak_memory_mib: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def read(cls, file: Path, tell: Callable[[str], None] = print) -> RunResult | None:
        """A result that was written before, by this version or another; None where there is none that can be read."""
        content = read_json(file, tell)
        if content is None:
            return None
        if not isinstance(content, dict):
            tell(f"{file} holds no result, so it counts as absent")
            return None
        known = {one.name: one.default is MISSING and one.default_factory is MISSING for one in fields(cls)}
        if missing := [name for name, needed in known.items() if needed and name not in content]:
            tell(f"{file} lacks {', '.join(missing)}, so it counts as absent")
            return None
        try:
            return TypeAdapter(cls).validate_python({name: value for name, value in content.items() if name in known})
        except ValidationError as error:
            places = sorted({str(fault["loc"][0]) for fault in error.errors()})
            tell(f"{file} has no such values as a result has ({', '.join(places)}), so it counts as absent")
            return None
