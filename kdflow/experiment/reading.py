"""Methods and benches as read from their files, with the plugins that they name; nothing is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdflow.data.formats import describe
from kdflow.errors import Fault, KdflowError, SpecError, UsageError
from kdflow.experiment.find import find_bench, find_method, known_benches
from kdflow.folders import name_problem
from kdflow.graph.everywhere import faults_everywhere
from kdflow.plugins import load_plugin
from kdflow.ports import DETECTORS
from kdflow.registry import UnknownNameError
from kdflow.spec.bench import Bench
from kdflow.spec.leads import faults_of
from kdflow.spec.load import Document, part_of, read
from kdflow.spec.paths import BENCH_PATHS
from kdflow.spec.resolve import MethodSpec, bench_of, read_spec


def read_method(name: str | Path) -> MethodSpec:
    """Load a method and the plugins that it names; raises SpecError or UsageError."""
    spec = read_spec(find_method(name), find_method)
    faults = faults_of(spec)
    if faults:  # in one round with what is wrong with the names and kinds of the rest
        faults += plugin_faults(spec.document)
        raise SpecError([*faults, *elsewhere(faults, faults_everywhere(spec, known_benches()))])
    if faults := plugin_faults(spec.document):
        raise SpecError(faults)
    return spec


def read_bench(path: str | Path, overrides: Mapping[str, Any] | None = None) -> tuple[Bench, Document]:
    """A bench with its plugins imported, and its document; raises SpecError with all that is wrong with the text."""
    document = part_of(read(path), "bench")
    bench = _named(bench_of(document, overrides), document)
    if faults := plugin_faults(document):
        raise SpecError(faults)
    return bench, document


def bench_file(spec: MethodSpec, bench: str | Path | None) -> Path:
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


def plugin_faults(document: Document) -> list[Fault]:
    """Import the files in ``plugins:``, found beside the file that names them; what cannot be imported is a fault at its line."""
    faults, plugins = [], document.data.get("plugins")
    for index, plugin in enumerate(plugins if isinstance(plugins, list) else ()):
        try:
            load_plugin(Path(document.file).parent / str(plugin))
        except UsageError as error:
            faults.append(document.fault(("plugins", index), str(error)))
    return faults


def elsewhere(faults: Sequence[Fault], more: Sequence[Fault]) -> list[Fault]:
    """What is found in other places than what is known already."""
    places = {(fault.file, fault.line, fault.column) for fault in faults}
    return [fault for fault in more if (fault.file, fault.line, fault.column) not in places]


def _named(bench: Bench, document: Document) -> Bench:
    """The bench, whose name becomes a folder; raises SpecError where it cannot be one."""
    if problem := name_problem(bench.bench):
        raise SpecError([document.fault(("bench",), problem)])
    return bench


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


def context_of(bench: Bench) -> dict[str, str]:
    """What variants may ask: bench name, family and detector of every owner."""
    context = {"bench": bench.bench}
    for owner, spec in {"student": bench.student, **bench.all_teachers}.items():
        context[f"{owner}.detector"] = spec.detector
        if spec.detector in DETECTORS:
            context[f"{owner}.family"] = DETECTORS.get(spec.detector).family_of(spec.options)
    return context


def is_bench_path(path: str) -> bool:
    """True for dotted paths of the bench, False for those of the method."""
    return path.startswith(BENCH_PATHS)
