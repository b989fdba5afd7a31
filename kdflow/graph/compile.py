"""Compile: build the graph, run the passes, lower it to a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdflow.errors import UsageError, choices
from kdflow.graph.build import Builder
from kdflow.graph.given import given_detectors
from kdflow.graph.idle import idle_parameters
from kdflow.graph.node import Graph, Role
from kdflow.graph.passes.fakes import Fakes
from kdflow.graph.passes.infer import Inference, example_batch
from kdflow.graph.passes.merge import merge_equal
from kdflow.graph.passes.phases import check_learners, check_phases, check_wiring
from kdflow.graph.passes.search import check_search
from kdflow.graph.passes.sizes import spare_maps
from kdflow.graph.passes.taxonomy import place_terms, rewired_nodes
from kdflow.graph.passes.unused import report_unused
from kdflow.graph.plan import Plan, PlanReport, TermInfo, op_weights
from kdflow.graph.reductions import unsaid
from kdflow.graph.runtime import Streams
from kdflow.kinds import KINDS, Kind
from kdflow.ports import Detector
from kdflow.spec.load import Document
from kdflow.spec.method import Method, TermEntry
from kdflow.spec.schedule import Schedule, read_schedule


def compile_method(
    method: Method,
    document: Document,
    detectors: Mapping[str, Detector],
    *,
    canvas: tuple[int, int] = (128, 128),
    seed: int | None = 0,
    given: Mapping[str, Any] | None = None,
    kinds: Mapping[str, Kind] | None = None,
    fakes: Fakes | None = None,
) -> Plan:
    """The plan of a method on these detectors.

    Args:
        method: The resolved method.
        document: Where its lines stand.
        detectors: ``student`` and the teachers by owner name.
        canvas: (height, width) of the padded input that shapes are inferred for.
        seed: Seed of adapters' initial weights and of all random streams; None draws from torch's global generator.
        given: Values that replace ports or nodes, see :func:`compile_given`.
        kinds: Kinds of given values, where they are said.
        fakes: What earlier plans on the same detectors inferred; none infers everything.

    Raises:
        SpecError: With every fault found.
    """
    found = Document(document.file, document.data, document.marks)
    builder = Builder(method, found, detectors, given, kinds, seed or 0)
    graph = builder.build()
    if given is None:
        check_search(method, found)
        check_learners(method, detectors, found)
    if given is None and not found.faults:  # a misspelt name would make a node look unused
        report_unused(method, found)
    streams = Streams(seed)
    example = {**example_batch(*canvas), **{k: v for k, v in (given or {}).items() if k in ("images", "image_sizes")}}
    Inference(graph, found, builder.parts.everyone, example, seed=seed or 0, streams=streams, fakes=fakes).run()
    graph = merge_equal(graph)
    place_terms(graph, found, learning=[owner for owner in detectors if any(p.names(owner) for p in method.phases)])
    terms = _terms(graph, method, found)
    if given is None and not found.faults:
        check_wiring(method, graph, found)
    found.check()
    if given is None:
        spare_maps(graph, [term.name for term in terms], canvas)
    plan = Plan(method, graph, detectors, terms, streams, _report(graph, detectors, terms))
    if given is None:
        check_phases(method, plan, found)
        found.check()
    return plan


def compile_given(method: Method, document: Document, values: Mapping[str, Any], **options: Any) -> Plan:
    """A plan on given values, without any detector: for notebooks, and for comparing a formula with known numbers.

    Args:
        method: The resolved method.
        document: Where its lines stand.
        values: Reference as written in the spec (``student.neck``, ``shared.logits``, ``objects``) -> value.
        options: ``families`` (owner -> family), ``strides`` (reference -> strides), ``kinds`` (reference -> word for its kind),
            ``detectors`` (owner -> detector, where the method calls stages), ``seed``.

    Raises:
        UsageError: An unknown option or kind, or one for a value that is not given.
        SpecError: With every fault found.
    """
    for option in options:
        if option not in _GIVEN_OPTIONS:
            raise UsageError(f'no option "{option}" beside values.{choices(option, _GIVEN_OPTIONS)}')
    detectors = given_detectors(
        values, options.get("families", {}), options.get("strides", {}), options.get("detectors", {})
    )
    kinds = {reference: _kind_of(reference, word, values) for reference, word in options.get("kinds", {}).items()}
    return compile_method(method, document, detectors, seed=options.get("seed", 0), given=values, kinds=kinds)


_GIVEN_OPTIONS = ("families", "strides", "kinds", "detectors", "seed")


def _kind_of(reference: str, word: str, values: Mapping[str, Any]) -> Kind:
    """The kind that is said for a given value."""
    if reference not in values:
        raise UsageError(f'a kind is said for "{reference}", which is not given.{choices(reference, values)}')
    if word not in KINDS:
        raise UsageError(f'no kind "{word}" for "{reference}".{choices(word, KINDS)}')
    return KINDS[word]


def _terms(graph: Graph, method: Method, document: Document) -> list[TermInfo]:
    shared = read_schedule(method.schedule, document, ("schedule",))
    terms = []
    for node in graph.of_role(Role.TERM):
        entry = node.term or TermEntry()
        if entry.weight == 0 and node.name.startswith("kd/"):
            continue  # checked like all others, and costs nothing
        own = read_schedule(entry.schedule, document, (*node.path, "schedule"))
        schedule = Schedule((*shared.parts, *own.parts)) if node.name.startswith("kd/") else own
        terms.append(
            TermInfo(
                node.name, node.taxonomy, entry.signed_weight, schedule, node.auxiliary, entry.share, entry.control
            )
        )
    return sorted(terms, key=lambda term: term.is_distillation)


def _report(graph: Graph, detectors: Mapping[str, Detector], terms: Sequence[TermInfo]) -> PlanReport:
    needed = graph.upstream(*(term.name for term in terms))
    run, pruned = [], []
    for owner, detector in detectors.items():
        if owner == "student":
            continue
        used = {graph[n].stage for n in needed if graph[n].role is Role.STAGE and graph[n].owner == owner and not graph[n].copied}
        run += [f"{owner}.{stage}" for stage in detector.stages if stage in used]
        pruned += [f"{owner}.{stage}" for stage in detector.stages if stage not in used]
    modules = op_weights(graph.keep(needed))
    adapters = {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()}
    idle = idle_parameters(graph, [term.name for term in terms], detectors.get("student"))
    remarks = tuple(words for term in terms if term.is_distillation and (words := unsaid(graph, term.name)))
    return PlanReport(tuple(run), tuple(pruned), adapters, idle, tuple(rewired_nodes(graph)), remarks)
