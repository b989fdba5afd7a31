"""From names to a checked setting: method, bench, detectors and plan. Neither images nor weights are read here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdflow.collector import seldom_collecting
from kdflow.errors import Fault, SpecError
from kdflow.experiment.balance import balance_faults, lonely_norms, silent_terms
from kdflow.experiment.build import Teachers, build_detectors, canvas_of
from kdflow.experiment.find import known_benches
from kdflow.experiment.ranges import Ranges
from kdflow.experiment.reading import bench_file, classes_of, context_of, elsewhere, is_bench_path, read_bench
from kdflow.experiment.shelf import Row, Shelf
from kdflow.graph.compile import compile_method
from kdflow.graph.everywhere import faults_everywhere
from kdflow.graph.plan import Plan
from kdflow.ports import Detector
from kdflow.spec.bench import Bench
from kdflow.spec.load import Document
from kdflow.spec.method import Method, SearchRange
from kdflow.spec.resolve import MethodSpec


@dataclass(frozen=True)
class Setting:
    """Everything that a run is made of, checked and compiled.

    Attributes:
        method: The method with the bench's variants and all overrides.
        bench: The bench with all overrides.
        document: The method's file, for messages.
        classes: Class names of the data.
        detectors: Student and teachers with random weights.
        plan: The compiled plan.
        seed: Seed of the run.
        overrides: What was set on the command line.
        place: Folder of the bench's file, which its plugins lie in.
        bench_document: The bench's file, for messages.
        start: Checkpoint of another trial, whose student the method's ``init:`` takes weights from.
    """

    method: Method
    bench: Bench
    document: Document
    classes: tuple[str, ...]
    detectors: Mapping[str, Detector]
    plan: Plan
    seed: int
    overrides: Mapping[str, Any] = field(default_factory=dict)
    place: Path = Path()
    bench_document: Document = field(default_factory=lambda: Document("bench"))
    start: Path | None = None


@seldom_collecting()
def prepare(
    spec: MethodSpec,
    bench: str | Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    teachers: Teachers | None = None,
    shelf: Shelf | None = None,
) -> Setting:
    """Resolve, build and compile a run; everything that can be wrong without data or weights is found here.

    Args:
        spec: The method as written.
        bench: Name or file of a bench; none takes the method's own.
        overrides: Dotted path of method or bench -> value.
        seed: Seed of initial weights and random streams.
        teachers: Teachers that several settings hold in common: equal ones are taken from here, new ones are added.
        shelf: Detectors of settings that were only looked at before, for one more look; none builds detectors to be trained.

    Raises:
        SpecError: All faults of method, bench and their graph.
        UsageError: No such bench, detector or data format.
    """
    overrides = dict(overrides or {})
    setting, document = read_bench(bench_file(spec, bench), overrides)
    classes = classes_of(setting, document)
    method = spec.resolve(context_of(setting), {k: v for k, v in overrides.items() if not is_bench_path(k)})
    row = shelf.row(setting, classes, seed) if shelf else Row()
    detectors = build_detectors(method, setting, document, classes, seed, row, teachers)
    canvas = canvas_of(setting, detectors)
    benches, context = [*known_benches(), setting.bench], context_of(setting)
    try:
        plan = compile_method(method, spec.document, detectors, canvas=canvas, seed=seed, fakes=row.fakes)
    except SpecError as error:
        raise SpecError([*error.faults, *elsewhere(error.faults, faults_everywhere(spec, benches, context))]) from None
    faults = [
        *faults_everywhere(spec, benches, context),
        *_range_faults(method.search, spec.document, document, setting, detectors, overrides),
        *balance_faults(method, plan, spec.document, setting.recipe),
        *lonely_norms(plan, setting, document),
    ]
    if setting.recipe.steps is not None:
        faults += silent_terms(method, plan, spec.document, setting.recipe, setting.recipe.steps, setting.recipe.steps)
    if faults:
        raise SpecError(faults)
    place = Path(document.file).parent
    return Setting(method, setting, spec.document, classes, detectors, plan, seed, overrides, place, document)


def _range_faults(
    ranges: Mapping[str, SearchRange],
    spec: Document,
    document: Document,
    bench: Bench,
    detectors: Mapping[str, Detector],
    overrides: Mapping[str, Any],
) -> list[Fault]:
    """What is wrong with ranges over the bench, at their lines in the method's file."""
    found = Ranges(document, bench, detectors, overrides).problems(ranges)
    return [spec.fault(("search", path), problem) for path, problem in found.items()]


def check_bench(
    path: str | Path, overrides: Mapping[str, Any] | None = None, shelf: Shelf | None = None
) -> tuple[Bench, Mapping[str, Detector]]:
    """A bench without a method: its text, data options, and detectors with random weights.

    Raises:
        SpecError: All faults of the file.
    """
    bench, document = read_bench(path, overrides)
    classes = classes_of(bench, document)
    row = shelf.row(bench, classes, 0) if shelf else Row()
    return bench, build_detectors(_ANY_METHOD, bench, document, classes, 0, row)


_ANY_METHOD = Method(kdflow=1, method="any")
