"""A finished run, opened again from its folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from kdflow.data.formats import describe
from kdflow.detectors.weights import load_weights
from kdflow.errors import UsageError, choices
from kdflow.experiment.build import build_detector, build_detectors, canvas_of, fill_weights
from kdflow.experiment.filled import SPEC
from kdflow.experiment.result import RESULT, RunResult
from kdflow.experiment.setup import Setting
from kdflow.experiment.shelf import Row
from kdflow.experiment.teacher import kept_weights
from kdflow.folders import expand, runs_folder
from kdflow.graph.compile import compile_method
from kdflow.plugins import load_plugin
from kdflow.ports import Detector
from kdflow.spec.bench import Bench
from kdflow.spec.load import Document, read
from kdflow.spec.method import Method
from kdflow.student.pictures import Pictures

STUDENT = "student.pt"


def run_folder(place: str | Path) -> Path | None:
    """The folder of a run: the folder itself, a file in it, or the name that it has in the folder of runs; None for others."""
    path = expand(place)
    for folder in (path, path.parent if path.name == STUDENT else path):
        if (folder / SPEC).is_file():
            return folder
    named = sorted(runs_folder().glob(f"*/{path.name}/{SPEC}")) if str(path) == path.name else []
    return named[0].parent if len(named) == 1 else None


def reopen(place: str | Path) -> Saved:
    """The run in a folder (:func:`run_folder`).

    Raises:
        UsageError: There is no run there, or it is not finished.
    """
    folder = run_folder(place)
    if folder is None:
        known = sorted(file.parent.name for file in runs_folder().glob(f"*/*/{SPEC}"))
        raise UsageError(f"{place}: no run lies there: a folder with {SPEC} and {STUDENT}.{choices(str(place), known)}")
    try:
        content = read(folder / SPEC).data
        method, bench = Method.model_validate(content["method"]), Bench.model_validate(content["bench"])
        seed = int(content.get("seed", 0))
    except (TypeError, KeyError, ValueError) as error:
        raise UsageError(f"{folder / SPEC} cannot be read: {str(error).splitlines()[0]}") from error
    if not (folder / STUDENT).is_file():
        raise UsageError(f"{folder}: this run has no {STUDENT}; it is not finished. Next: kdflow run ... --resume")
    for plugin in (*method.plugins, *bench.plugins):
        load_plugin(Path(plugin))
    return Saved(folder, method, bench, seed)


@dataclass(frozen=True)
class Saved:
    """A finished run.

    Attributes:
        folder: Where it lies.
        method: What was run.
        bench: On what.
        seed: Its seed.
    """

    folder: Path
    method: Method
    bench: Bench
    seed: int

    @cached_property
    def result(self) -> RunResult | None:
        """What it brought; None where that cannot be read."""
        return RunResult.read(self.folder / RESULT, lambda _: None)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        known = tuple(self.result.classes) if self.result else ()
        return known or tuple(describe(self.bench.data.format, self.bench.data.options))

    @cached_property
    def pictures(self) -> Pictures:
        """How the evaluation treated pictures."""
        if self.result and self.result.pictures:
            return Pictures(**self.result.pictures)
        data = self.bench.data  # a result of an older version: every detector has to be asked
        divisor = max(detector.size_divisor for detector in self.setting.detectors.values())
        return Pictures(data.size, data.max_size, data.fixed, divisor, data.options.get("exif") == "apply")

    @cached_property
    def setting(self) -> Setting:
        """All of it, compiled again; weights are random."""
        document = self._document()
        detectors = build_detectors(self.method, self.bench, document, self.classes, self.seed, Row())
        plan = compile_method(self.method, document, detectors, canvas=canvas_of(self.bench, detectors), seed=self.seed)
        return Setting(self.method, self.bench, document, self.classes, detectors, plan, self.seed)

    def student(self) -> Detector:
        """The trained student, as its method wires it; its weights must fit exactly.

        Raises:
            SpecError, UsageError: It cannot be built any more.
        """
        rewired = bool(self.method.wiring)
        detector = self.setting.plan.predictor() if rewired else self._built("student", self.bench.student)
        load_weights(detector, str(self.folder / STUDENT))
        detector.model.eval()
        return detector

    def teacher(self, owner: str = "teacher") -> Detector:
        """A teacher of the run with the weights that it taught with.

        Raises:
            UsageError: There is no such teacher, it finds no objects, or its weights are not kept.
        """
        specs = self.bench.all_teachers if self.method.teacher == "required" else {}
        if owner not in specs:
            raise UsageError(f'{self.folder.name} has no teacher "{owner}".{choices(owner, specs)}')
        detector = self._built(owner, specs[owner])
        if not detector.detects:
            raise UsageError(f"{owner}: {detector.name} is a backbone without a head, which finds no objects by itself")
        self._taught(owner, detector)
        detector.model.eval()
        return detector

    def trained(self) -> Setting:
        """All of it, compiled, with the weights that student and teachers ended with; those of adapters are not kept.

        Raises:
            UsageError: As :meth:`teacher`.
        """
        for owner, detector in self.setting.detectors.items():
            if owner == "student":
                load_weights(detector, str(self.folder / STUDENT))
            elif detector.detects:
                self._taught(owner, detector)
        return self.setting

    def _taught(self, owner: str, detector: Detector) -> None:
        """Give a teacher the weights that it taught with."""
        spec, known = self.bench.all_teachers[owner], (self.result.teachers if self.result else {}).get(owner, {})
        if any(phase.names(owner) for phase in self.method.phases):
            raise UsageError(f"{owner}: it was trained by a phase of this run, and only the student's weights are kept")
        if spec.weights is not None:
            fill_weights(spec, detector)
        elif (weights := kept_weights(str(known.get("identity", "")))) is not None:
            detector.model.load_state_dict(torch.load(weights, weights_only=True))
        else:
            raise UsageError(
                f"{owner}: its trained weights are not kept any more. Next: run the method again, with --resume"
            )

    def _built(self, owner: str, spec: Any) -> Detector:
        document = self._document()
        detector = build_detector(spec, self.classes, document, owner, self.seed)
        document.check()
        if detector is None:
            raise UsageError(f"{self.folder / SPEC}: the {owner} cannot be built")
        return detector

    def _document(self) -> Document:
        return Document(str(self.folder / SPEC), self.method.model_dump(mode="json"))
