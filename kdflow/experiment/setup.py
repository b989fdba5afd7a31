"""From names to a checked setting: method, bench, detectors and plan. Neither images nor weights are read here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kdflow.collector import seldom_collecting
from kdflow.data.formats import describe
from kdflow.detectors.weights import load_weights
from kdflow.engine.phases import lay_out
from kdflow.errors import Fault, KdflowError, SpecError, UsageError, choices
from kdflow.experiment.balance import balance_faults, lr_drops
from kdflow.experiment.ranges import Ranges
from kdflow.experiment.shelf import Row, Shelf
from kdflow.folders import name_problem
from kdflow.graph.classes import ClassOrder
from kdflow.graph.compile import compile_method
from kdflow.graph.everywhere import faults_everywhere
from kdflow.graph.plan import Plan
from kdflow.graph.runtime import stream_key
from kdflow.plugins import load_plugin
from kdflow.ports import DETECTORS, Detector, DetectorFamily
from kdflow.registry import UnknownNameError
from kdflow.resources import specs_folder
from kdflow.spec.bench import UNTRAINED, Bench, DetectorSpec, Recipe, TeacherSpec
from kdflow.spec.faults import validate
from kdflow.spec.leads import faults_of
from kdflow.spec.load import Document, is_run, part_of, read
from kdflow.spec.method import Method, SearchRange
from kdflow.spec.paths import BENCH_PATHS
from kdflow.spec.places import ENDINGS
from kdflow.spec.resolve import MethodSpec, bench_of, read_spec

Teachers = dict[tuple[str, str, tuple[str, ...]], Detector]
"""Teachers by owner, specification and the data's classes."""


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


def find_method(name: str | Path) -> Path:
    """The file of a method: a path, or the slug of one that comes with kdflow. Raises UsageError with what exists."""
    return _find(name, specs_folder(), "method")


def find_bench(name: str | Path) -> Path:
    """The file of a bench: a path, or the name of one that comes with kdflow. Raises UsageError with what exists."""
    return _find(name, specs_folder() / "benches", "bench")


def _find(name: str | Path, folder: Path, sort: str) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if path.is_file():
            return path
        inside = folder / path.name
        if inside.is_file() and path.parent.name in ("specs", "benches", ""):
            return inside
        raise UsageError(f"{path}: there is no such {sort} file.{choices(path.stem, names_in(folder))}")
    if (folder / f"{path}.yaml").is_file():
        return folder / f"{path}.yaml"
    raise UsageError(f'no {sort} "{name}".{choices(str(name), names_in(folder))}')


def names_in(folder: Path) -> list[str]:
    """Slugs of the specs in a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_method(name: str | Path) -> MethodSpec:
    """Load a method and the plugins that it names; raises SpecError or UsageError."""
    spec = read_spec(find_method(name), find_method)
    faults = faults_of(spec)
    if faults:  # in one round with what is wrong with the names and kinds of the rest
        faults += plugin_faults(spec.document)
        raise SpecError([*faults, *_elsewhere(faults, faults_everywhere(spec, known_benches()))])
    if faults := plugin_faults(spec.document):
        raise SpecError(faults)
    return spec


def seed_of(name: str | Path) -> int:
    """The seed in a ``run.yaml``; 0 for any other spec."""
    document = read(find_method(name))
    seed = document.data.get("seed") if is_run(document) else None
    return seed if isinstance(seed, int) else 0


def known_benches() -> list[str]:
    """Names of the benches that come with kdflow."""
    return names_in(specs_folder() / "benches")


def _elsewhere(faults: Sequence[Fault], more: Sequence[Fault]) -> list[Fault]:
    """What is found in other places than what is known already."""
    places = {(fault.file, fault.line, fault.column) for fault in faults}
    return [fault for fault in more if (fault.file, fault.line, fault.column) not in places]


def plugin_faults(document: Document) -> list[Fault]:
    """Import the files in ``plugins:``, found beside the file that names them; what cannot be imported is a fault at its line."""
    faults, plugins = [], document.data.get("plugins")
    for index, plugin in enumerate(plugins if isinstance(plugins, list) else ()):
        try:
            load_plugin(Path(document.file).parent / str(plugin))
        except UsageError as error:
            faults.append(document.fault(("plugins", index), str(error)))
    return faults


def read_bench(path: str | Path, overrides: Mapping[str, Any] | None = None) -> tuple[Bench, Document]:
    """A bench with its plugins imported, and its document; raises SpecError with all that is wrong with the text."""
    document = part_of(read(path), "bench")
    bench = _named(bench_of(document, overrides), document)
    if faults := plugin_faults(document):
        raise SpecError(faults)
    return bench, document


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
    setting, document = read_bench(_bench_file(spec, bench), overrides)
    classes = classes_of(setting, document)
    method = spec.resolve(context_of(setting), {k: v for k, v in overrides.items() if not is_bench_path(k)})
    row = shelf.row(setting, classes, seed) if shelf else Row()
    detectors = build_detectors(method, setting, document, classes, seed, row, teachers)
    canvas = canvas_of(setting, detectors)
    benches, context = [*known_benches(), setting.bench], context_of(setting)
    try:
        plan = compile_method(method, spec.document, detectors, canvas=canvas, seed=seed, fakes=row.fakes)
    except SpecError as error:
        raise SpecError([*error.faults, *_elsewhere(error.faults, faults_everywhere(spec, benches, context))]) from None
    faults = [
        *faults_everywhere(spec, benches, context),
        *range_faults(method.search, spec.document, document, setting, detectors, overrides),
        *balance_faults(method, plan, spec.document, setting.recipe),
        *lonely_norms(plan, setting, document),
    ]
    if setting.recipe.steps is not None:
        faults += silent_terms(method, plan, spec.document, setting.recipe, setting.recipe.steps, setting.recipe.steps)
    if faults:
        raise SpecError(faults)
    place = Path(document.file).parent
    return Setting(method, setting, spec.document, classes, detectors, plan, seed, overrides, place, document)


def range_faults(
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


def _bench_file(spec: MethodSpec, bench: str | Path | None) -> Path:
    """The bench that was asked for, or the method's own."""
    if bench is not None:
        return find_bench(bench)
    if spec.document.of_run:
        return Path(spec.document.file)
    name = spec.bench
    if name is None:
        raise SpecError([spec.document.fault((), "no bench: name one with bench: or --bench")])
    beside = Path(spec.document.file).parent / name
    try:
        return beside if name.endswith((".yaml", ".yml")) and beside.is_file() else find_bench(name)
    except UsageError as error:
        raise SpecError([spec.document.fault(("bench",), str(error))]) from None


def _named(bench: Bench, document: Document) -> Bench:
    """The bench, whose name becomes a folder; raises SpecError where it cannot be one."""
    if problem := name_problem(bench.bench):
        raise SpecError([document.fault(("bench",), problem)])
    return bench


def silent_terms(
    method: Method, plan: Plan, document: Document, recipe: Recipe, steps: int, per_epoch: int
) -> list[Fault]:
    """Terms whose schedule is 0 at every step of a run that they count at.

    Args:
        method: The resolved method.
        plan: Its plan.
        document: Where its lines stand.
        recipe: How the student is trained.
        steps: Length of the run.
        per_epoch: Steps of an epoch.
    """
    try:
        phases = lay_out(method.phases, steps)
    except UsageError:
        return []  # the run says so, with the length that it was given
    silent, drops = [], lr_drops(phases, recipe)
    for term in plan.terms:
        spans = [(p.start, p.end, drop) for p, drop in zip(phases, drops, strict=True) if p.counts(term.name)]
        counts = any(term.schedule.ever_counts(end, per_epoch, begin, drop) for begin, end, drop in spans)
        if term.is_distillation and spans and not counts:
            path = ("terms", term.name.partition("/")[2], "schedule")
            problem = f"the schedule is 0 at each of the {steps} steps, so nothing is learned from this term"
            silent.append(document.fault(path, problem))
    return silent


def lonely_norms(plan: Plan, bench: Bench, document: Document) -> list[Fault]:
    """BatchNorm layers that would train on one value per channel, because a step has one image.

    Args:
        plan: The compiled method.
        bench: Its bench.
        document: The bench's file.
    """
    if bench.recipe.batch > 1 or bench.recipe.norms == "frozen":
        return []
    trained = {"student", "", *plan.learners}
    found = [
        f"{node.name.partition(':')[0]}, layer {layer}"
        for node in plan.graph.ordered() if node.owner in trained or (node.copied and node.copied.trainable)
        for layer in node.lonely_norms
    ]
    if not found:
        return []
    return [document.fault(
        ("recipe", "batch"),
        f"one image per step leaves one value per channel to a BatchNorm that is trained ({'; '.join(found[:3])}), which has no "
        "variance. Next: a batch of 2 or more, a larger data.size, or recipe.norms: frozen",
    )]


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


def classes_of(bench: Bench, document: Document) -> tuple[str, ...]:
    """Class names of the data in label order; what is wrong with the data's keys becomes faults at their lines."""
    try:
        return tuple(describe(bench.data.format, bench.data.options))
    except UnknownNameError as error:
        raise SpecError([document.fault(("data", "format"), str(error))]) from None
    except UsageError as error:
        raise SpecError([_data_fault(document, line) for line in str(error).splitlines()]) from None
    except KdflowError as error:
        raise SpecError([document.fault(("data",), str(error))]) from None


def _data_fault(document: Document, line: str) -> Fault:
    """``data.images.train: problem`` as a fault at that key."""
    place, colon, problem = line.partition(": ")
    steps = tuple(place.split(".")) if colon and place.startswith("data") else ("data",)
    return document.fault(steps, problem if colon and place.startswith("data") else line)


def is_bench_path(path: str) -> bool:
    """True for dotted paths of the bench, False for those of the method."""
    return path.startswith(BENCH_PATHS)


def context_of(bench: Bench) -> dict[str, str]:
    """What variants may ask: bench name, family and detector of every owner."""
    context = {"bench": bench.bench}
    for owner, spec in {"student": bench.student, **bench.all_teachers}.items():
        context[f"{owner}.detector"] = spec.detector
        if spec.detector in DETECTORS:
            context[f"{owner}.family"] = DETECTORS.get(spec.detector).family_of(spec.options)
    return context


def build_detectors(
    method: Method,
    bench: Bench,
    document: Document,
    classes: tuple[str, ...],
    seed: int,
    row: Row,
    teachers: Teachers | None = None,
) -> dict[str, Detector]:
    """Student and teachers with seeded random weights; a method without a teacher gets none."""
    owners: dict[str, DetectorSpec] = {"student": bench.student}
    if method.teacher == "required":
        owners.update(bench.all_teachers)
    held = {} if teachers is None else teachers
    built: dict[str, Detector | None] = {}
    for owner, spec in owners.items():
        key = (owner, spec.model_dump_json(), classes)
        build = partial(build_detector, spec, classes, document, owner, seed)
        learns = owner == "student" or any(phase.names(owner) for phase in method.phases)
        built[owner] = (None if learns else held.get(key)) or row.detector(owner, build)
        if (made := built[owner]) is not None and not learns:
            held[key] = made
    for owner, spec in bench.all_teachers.items() if method.teacher == "required" else ():
        path = ("teacher",) if owner == "teacher" else ("teachers", owner)
        learns = any(phase.names(owner) for phase in method.phases)
        detects = (made := built.get(owner)) is None or made.detects
        if spec.weights is None and spec.recipe is None and not learns and detects:
            document.report(path, f"the {owner} has neither weights: nor a recipe: that trains it")
        if _missing_file(spec.weights):
            document.report((*path, "weights"), f'there is no file "{spec.weights}"')
        if spec.weights is None and spec.classes is not None:
            document.report(
                (*path, "classes"), "classes: is for teachers with weights:; a recipe trains on the data's classes"
            )
    detectors = {owner: detector for owner, detector in built.items() if detector is not None}
    if "student" in detectors and not detectors["student"].detects:
        document.report(("student", "detector"), f"{bench.student.detector} offers features only, so it can be a teacher alone")
    if "student" in detectors and detectors["student"].detects and detectors["student"].classes != classes:
        document.report(
            ("student", "weights"),
            f"these weights do not know all classes of the data. They know: {', '.join(detectors['student'].classes)}. "
            f"The data has: {', '.join(classes)}",
        )
    for owner in detectors:
        try:
            ClassOrder.of(detectors, owner)
        except UsageError as error:
            document.report(
                ("teacher", "classes") if owner == "teacher" else ("teachers", owner, "classes"), str(error)
            )
    document.check()
    return detectors


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
