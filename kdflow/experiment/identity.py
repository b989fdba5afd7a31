"""What makes two runs the same: one description of everything that has an effect on a result, and the hashes made of it.

Runs, sweeps, ablations, searches and cached teachers are all known by these hashes. What has no effect (titles, loader processes,
how often something is logged) is left out, see :data:`NO_EFFECT`; data and weights count by their content, code by its syntax.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from kdflow.experiment.build import brings_architecture
from kdflow.experiment.hashes import content_hash, detector_code, digest, known_file_hash, op_code, plain
from kdflow.experiment.setup import Setting
from kdflow.ports import Detector
from kdflow.spec.bench import Bench, DataSpec, DetectorSpec, Evaluation, Recipe, TeacherSpec
from kdflow.spec.method import Method, TermEntry
from kdflow.spec.places import WEIGHTS

NO_EFFECT: Mapping[type[BaseModel], frozenset[str]] = {
    Bench: frozenset({"title", "floor"}),
    DataSpec: frozenset({"workers", "resident"}),
    Recipe: frozenset({"checkpoint_every", "log_every"}),
    Evaluation: frozenset({"evaluator"}),
    Method: frozenset({"title", "paper", "fidelity", "search", "metric", "variants", "bench", "plugins", "constants"}),
}
"""Fields that change no result, by model."""
UNLESS_SET: Mapping[type[BaseModel], frozenset[str]] = {
    Recipe: frozenset({"calibrate", "fast", "checkpoint_activations"}),
    TermEntry: frozenset({"control"}),
    DetectorSpec: frozenset({"weights_entry"}),
}
"""Fields that count where they are set: whatever was known before they existed keeps its hash."""
PLACES: Mapping[type[BaseModel], frozenset[str]] = {
    DataSpec: frozenset({"root"}),
    DetectorSpec: frozenset(WEIGHTS),
}
"""Keys that may name files; the content of those that do counts in their stead."""
SHARED = ("batch", "accumulate", "precision", "compile", "channels_last", "fast")
"""What of a recipe decides the batches, and how a common pass computes."""
TEACHER_SEED = 0
"""A teacher's training does not depend on the run's seed."""


@dataclass(frozen=True)
class Identity:
    """The hashes of a run.

    Attributes:
        parts: Everything that determines its result.
        batches: Everything that decides its batches.
        definition: Hash of ``parts`` without seed, threads and processes: runs of one definition repeat each other.
        bench: Hash of the bench and its data: gains are counted inside one.
    """

    parts: Mapping[str, Any]
    batches: Mapping[str, Any]
    definition: str
    bench: str

    @cached_property
    def run(self) -> str:
        """Hash of everything that determines the result."""
        return digest(self.parts)

    @cached_property
    def stream(self) -> str:
        """Hash of what decides the batches: runs of one stream may train together."""
        return digest(self.batches)

    def with_seed(self, seed: int) -> Identity:
        """The same run with another seed."""
        return replace(self, parts={**self.parts, "seed": seed}, batches={**self.batches, "seed": seed})


def identify(setting: Setting, data: str, threads: int = 0, processes: int = 1) -> Identity:
    """Know a run before anything of it is trained.

    Args:
        setting: Method, bench and detectors; neither data nor weights need to be loaded.
        data: Hash of the data's content.
        threads: Threads that a CPU computes with; 0 on other devices, whose results do not depend on them.
        processes: Processes that train together.
    """
    bench, student = setting.bench, setting.bench.student
    whole = effects(bench)
    calibrate = whole["recipe"].pop("calibrate", None)  # of the method's weights: the bench is the same with it and without
    teachers = {
        owner: teacher_identity(spec, setting.detectors[owner], bench, data)
        for owner, spec in bench.all_teachers.items() if owner in setting.detectors
    }
    own = {key: value for key, value in whole.items() if key not in ("teacher", "teachers")}
    common = {
        "method": effects(setting.method),
        **({"calibrate": calibrate} if calibrate and any(t.is_distillation for t in setting.plan.terms) else {}),
        "bench": {**own, "student": _without_weights(student)},
        "teachers": teachers,
        "weights": weights_content(student, setting.detectors["student"]),
        **({} if setting.start is None else {"start": known_file_hash(setting.start)}),
        "data": data,
        "divisor": max(d.size_divisor for d in setting.detectors.values()),
        "code": {
            "student": detector_code(student.detector, setting.detectors["student"].code),
            "ops": op_code(setting.plan.graph),
            **_code_of_parts(setting.method),
        },
    }
    parts = {**common, "seed": setting.seed, "threads": threads, "processes": processes}
    return Identity(plain(parts), stream_of(setting), digest(common), digest({"bench": whole, "data": data}))


def _code_of_parts(method: Method) -> dict[str, str]:
    """Hash of the code of every detector that the method builds for a part of it."""
    return {name: detector_code(entry.build.detector) for name, entry in method.modules.items() if entry.build}


def teacher_identity(spec: TeacherSpec, detector: Detector, bench: Bench, data: str) -> str:
    """Hash of everything that determines a teacher: its weights, or the recipe and the data that it learns from."""
    sight, size = bench.data, spec.size or bench.data.size
    return digest(
        {
            "teacher": {**_without_weights(spec), "size": None},
            "weights": weights_content(spec, detector),
            "classes": detector.classes,
            "data": data,
            "sight": [size, sight.max_size, sight.fixed, sight.flip, effects(sight.augment), detector.size_divisor],
            "evaluation": effects(bench.evaluation),
            "seed": TEACHER_SEED,
            "code": detector_code(spec.detector, detector.code),
        }
    )


def stream_of(setting: Setting) -> dict[str, Any]:
    """All that decides which batches a run sees, and how a common pass computes on them, in words of the bench file."""
    bench = setting.bench
    return {
        **{f"data.{key}": value for key, value in effects(bench.data).items()},
        "data.root": bench.data.options.get("root"),
        **{f"recipe.{key}": getattr(bench.recipe, key) for key in SHARED},
        "seed": setting.seed,
        "the multiple that image sides are padded to": max(d.size_divisor for d in setting.detectors.values()),
    }


def effects(value: Any) -> Any:
    """Plain data of what in a document has an effect."""
    if isinstance(value, BaseModel):
        silent = {name for kind in type(value).__mro__ for name in NO_EFFECT.get(kind, ())}
        optional = {name for kind in type(value).__mro__ for name in UNLESS_SET.get(kind, ())}
        unset = {name for name in optional if getattr(value, name) is None}
        fields = {name: getattr(value, name) for name in type(value).model_fields if name not in silent | unset}
        places = {name for kind in type(value).__mro__ for name in PLACES.get(kind, ())}
        written = {**fields, **(value.model_extra or {})}
        return effects({key: _content(key, item) if key in places else item for key, item in written.items()})
    if isinstance(value, Mapping):
        return {str(key): effects(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [effects(item) for item in value]
    return value


def _content(key: str, value: Any) -> Any:
    """What stands for a place: nothing for the data, which are hashed by themselves; the content of files; else its name."""
    if key == "root":
        return None
    path = Path(value).expanduser() if isinstance(value, str) and "\0" not in value else None
    return content_hash(path) if path is not None and os.path.exists(path) else value


def _without_weights(spec: DetectorSpec) -> dict[str, Any]:
    """The specification without the place of its weights, whose content counts instead."""
    return {key: value for key, value in effects(spec).items() if key != "weights"}


def weights_content(spec: DetectorSpec, detector: Detector) -> str:
    """What stands for a detector's starting weights: their content, or a library's own name of them; empty without any.

    Args:
        spec: Names the weights.
        detector: As built; a model folder or hub name has given it its weights already.
    """
    if not detector.detects:
        return weights_hash(detector)
    if spec.weights is None:
        return ""
    file = Path(spec.weights).expanduser()
    if file.is_file():
        return known_file_hash(file)
    return weights_hash(detector) if brings_architecture(spec) else spec.weights


def weights_hash(detector: Detector) -> str:
    """Hash of a model's state dict."""
    state = hashlib.sha256()
    for name, value in detector.model.state_dict().items():
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)  # numpy knows no bfloat16
        state.update(name.encode() + raw.numpy().tobytes())
    return state.hexdigest()[:16]
