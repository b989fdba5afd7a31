"""Student and teachers of a bench, with random weights, and the weights that a bench names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import torch

from kdflow.detectors.weights import load_weights
from kdflow.errors import KdflowError, UsageError, choices
from kdflow.experiment.shelf import Row
from kdflow.graph.classes import ClassOrder
from kdflow.graph.runtime import stream_key
from kdflow.ports import DETECTORS, Detector, DetectorFamily
from kdflow.spec.bench import UNTRAINED, Bench, DetectorSpec, TeacherSpec
from kdflow.spec.faults import validate
from kdflow.spec.load import Document, Steps
from kdflow.spec.method import Method
from kdflow.spec.places import ENDINGS

Teachers = dict[tuple[str, str, tuple[str, ...]], Detector]
"""Teachers by owner, specification and the data's classes."""


def build_detectors(
    method: Method,
    bench: Bench,
    document: Document,
    classes: tuple[str, ...],
    seed: int,
    row: Row,
    teachers: Teachers | None = None,
) -> dict[str, Detector]:
    """Student and teachers with seeded random weights; a method without a teacher gets none.

    Args:
        method: The resolved method.
        bench: What is built.
        document: The bench's file.
        classes: Class names of the data.
        seed: Seed of the student's weights; those of teachers are the same for all seeds.
        row: Detectors that were built before, for one more look.
        teachers: Teachers that several settings hold in common.

    Raises:
        SpecError: All that is wrong with the detectors, at their lines.
    """
    held = {} if teachers is None else teachers
    taught = bench.all_teachers if method.teacher == "required" else {}
    learns = {owner: any(phase.names(owner) for phase in method.phases) for owner in taught}
    detectors: dict[str, Detector] = {}
    for owner, spec in {"student": bench.student, **taught}.items():
        known_as = (owner, spec.model_dump_json(), classes)
        is_held = owner != "student" and not learns[owner]
        kept = held.get(known_as) if is_held else None
        made = kept or row.detector(owner, partial(build_detector, spec, classes, document, owner, seed))
        if made is not None:
            detectors[owner] = made
            if is_held:
                held[known_as] = made
    for owner, spec in taught.items():
        for key, problem in _of_teacher(spec, owner, detectors.get(owner), learns[owner]):
            document.report((*_place(owner), key) if key else _place(owner), problem)
    if "student" in detectors:
        for key, problem in _of_student(bench.student, detectors["student"], classes):
            document.report(("student", key), problem)
    for owner in detectors:
        try:
            ClassOrder.of(detectors, owner)
        except UsageError as error:
            document.report((*_place(owner), "classes"), str(error))
    document.check()
    return detectors


def _place(owner: str) -> Steps:
    """Where a bench describes an owner."""
    return (owner,) if owner in ("student", "teacher") else ("teachers", owner)


def _of_teacher(spec: TeacherSpec, owner: str, made: Detector | None, learns: bool) -> Iterator[tuple[str, str]]:
    """What is wrong with where a teacher's knowledge comes from: key (empty: the whole) and problem."""
    detects = made is None or made.detects
    if spec.weights is None and spec.recipe is None and not learns and detects:
        yield "", f"the {owner} has neither weights: nor a recipe: that trains it"
    if _missing_file(spec.weights):
        yield "weights", f'there is no file "{spec.weights}"'
    if spec.weights is None and spec.classes is not None:
        yield "classes", "classes: is for teachers with weights:; a recipe trains on the data's classes"


def _of_student(spec: DetectorSpec, made: Detector, classes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """What is wrong with a detector as a student."""
    if not made.detects:
        yield "detector", f"{spec.detector} offers features only, so it can be a teacher alone"
    elif made.classes != classes:
        yield "weights", (
            f"these weights do not know all classes of the data. They know: {', '.join(made.classes)}. "
            f"The data has: {', '.join(classes)}"
        )


def build_detector(
    spec: DetectorSpec, classes: tuple[str, ...], document: Document, owner: str, seed: int
) -> Detector | None:
    """One detector with weights drawn from a stream of its own, so that a student starts alike in every method."""
    path = (owner,) if owner in document.data else ("teachers", owner)
    if spec.detector not in DETECTORS:
        document.report((*path, "detector"), f'no detector "{spec.detector}".{choices(spec.detector, DETECTORS)}')
        return None
    family: DetectorFamily = DETECTORS.get(spec.detector)
    checked = validate(family.options, spec.options, document, path)
    if checked is None:
        return None
    options = {key: getattr(checked, key) for key in checked.model_fields_set}
    if brings_architecture(spec):
        options["weights"] = spec.weights
    if family.takes("size") and isinstance(spec, TeacherSpec) and spec.size is not None:
        options["size"] = spec.size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_key(seed if owner == "student" else 0, 0, f"init/{owner}"))
        try:
            return family.build(classes=getattr(spec, "classes", None) or classes, **options)
        except KdflowError as error:
            document.report(path, str(error))
        except (ValueError, TypeError, RuntimeError, AssertionError) as error:  # the library refuses these options
            words = (str(error).strip().splitlines() or [type(error).__name__])[0]
            document.report(path, f"{spec.detector} cannot be built with these options: {words}")
    return None


def brings_architecture(spec: DetectorSpec) -> bool:
    """True when the weights are a model folder or hub name, which says how the model is built as well."""
    if spec.weights in (None, UNTRAINED) or Path(str(spec.weights)).expanduser().is_file():
        return False
    return DETECTORS.get(spec.detector).brings_architecture


def fill_weights(spec: DetectorSpec, detector: Detector) -> None:
    """Load the weights that a bench names, where building has not done so already; raises UsageError when they do not fit."""
    if spec.weights not in (None, UNTRAINED) and not brings_architecture(spec):
        load_weights(detector, str(spec.weights), spec.weights_classes, spec.weights_entry)


def _missing_file(weights: str | None) -> bool:
    """True when the weights name a file, by their ending, and it is not there; other names belong to the library."""
    return weights is not None and weights.endswith(ENDINGS) and not Path(weights).expanduser().is_file()


def canvas_of(bench: Bench, detectors: Mapping[str, Detector]) -> tuple[int, int]:
    """A typical padded input: the bench's size, rounded up to what every detector divides by."""
    size = bench.data.size
    divisor = max(d.size_divisor for d in detectors.values())
    side = -(-size // divisor) * divisor
    return side, side
