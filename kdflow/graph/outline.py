"""Names and kinds of a method without its bench: what no detector offers, no op takes and no node gives, wherever it stands."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any

from kdflow.errors import choices
from kdflow.graph.build import Builder
from kdflow.graph.names import RESERVED, check_names
from kdflow.graph.node import Graph, Node, Role, Value
from kdflow.graph.offers import AnyDetector
from kdflow.graph.passes.kinds import place_kinds
from kdflow.graph.passes.search import check_bench_paths, check_search
from kdflow.graph.passes.unused import report_unused
from kdflow.graph.references import References
from kdflow.graph.rewiring import Rewiring
from kdflow.graph.sides import is_pair
from kdflow.graph.terms import add_method_terms, check_detector_terms
from kdflow.kinds import ANY
from kdflow.ports import DETECTORS
from kdflow.spec.load import Document, Steps
from kdflow.spec.method import Method
from kdflow.spec.reference import Reference
from kdflow.spec.schedule import read_schedule
from kdflow.taxonomy import load_tree

_ALIKE = 0.8
"""How alike two names are when one is taken for the other, written wrongly."""


def outline(
    method: Method,
    document: Document,
    families: Mapping[str, Collection[str]],
    lost: Collection[str] = (),
    terms: Collection[str] = (),
) -> list[Steps]:
    """Record what is wrong with the names and kinds of a method, whichever detectors it meets.

    Args:
        method: The method, with the variants of one case.
        document: Where its lines stand; receives the faults.
        families: Owner -> families that its detector may be of.
        lost: Nodes, modules and preparations that are faulty themselves; what refers to them is not judged.
        terms: Names of terms that the file has in other cases.

    Returns:
        Places of faults that no bench makes good, and that compiling on one does not look for.
    """
    everything = sorted({family for each in families.values() for family in each})
    foreign = dict.fromkeys(_foreign_owners(method, lost), everything)
    owners = {
        owner: AnyDetector(each)
        for owner, each in {**foreign, **families}.items()
        if owner == "student" or method.teacher == "required"
    }
    nowhere: list[Steps] = []
    builder = Builder(method, document, owners, references=partial(AnyReferences, owners, lost, nowhere))
    builder.parts.sized = False
    first = builder.declare() + add_method_terms(builder.linker)
    check_detector_terms(method, document, owners["student"].losses)
    check_names(method, document)
    graph = builder.link(first)
    check_search(method, document)
    check_bench_paths(method, document)
    before = len(document.places)
    _check_schedules(method, document)
    _check_places(method, document)
    _check_phase_terms(method, document, owners["student"], [*method.distillation_terms, *terms])
    certain = [*nowhere, *(place for place, _ in document.places[before:])]
    if not document.faults and not lost:  # a misspelt name would make a node look unused
        report_unused(method, document)
    _place_all(graph, document)
    return certain


class AnyReferences(References):
    """References to detectors that stand for many.

    Args:
        offers: Owner -> what any of its detectors offers.
        lost: Names whose entries are faulty.
        certain: Receives the places of ports that no detector has.
        parts: Nodes, entries, inputs and wiring (:class:`References`).
    """

    def __init__(
        self, offers: Mapping[str, AnyDetector], lost: Collection[str], certain: list[Steps], *parts: Any
    ) -> None:
        super().__init__(*parts)
        self.offers, self.lost, self.certain = offers, frozenset(lost), certain
        self.everything = AnyDetector({DETECTORS.get(name).family for name in DETECTORS.names()})

    def port(self, owner: str, port: str) -> str:
        """A port as a value of its kind: no stage is put before it, unless the method rewires stages."""
        return super().port(owner, port) if self.wiring.own.wanted else self._port(f"{owner}.{port}", owner, port)

    def _called(self, rewiring: Rewiring, output: str) -> str:
        if self.wiring.own.wanted:
            return super()._called(rewiring, output)
        return self._port(f"{rewiring.name}.{output}", rewiring.owner, rewiring.call.outputs[output])

    def _port(self, name: str, owner: str, port: str) -> str:
        if name not in self.nodes:
            offered = self.offers[owner].standard(port) if owner in self.offers else None
            found = offered or self.everyone[owner].ports[port]
            value = Value(found.kind, strides=found.strides, form=found.form)
            self.nodes.add(Node(name, Role.INPUT, owner=owner, port=found, value=value))
        return name

    def _whole(self, parsed: Reference, path: Steps) -> str | None:
        return None if parsed.base in self.lost else super()._whole(parsed, path)

    def _offered(self, text: str) -> bool:
        owner, _, port = text.partition("[")[0].partition(".")
        known = owner in self.offers and self.offers[owner].standard(port) is not None
        return owner in self.lost or known or super()._offered(text)

    def _first_offered(self, texts: Any, path: Steps) -> str | None:
        for index, text in enumerate(texts):
            owner, _, port = str(text).partition("[")[0].partition(".")
            everywhere = self.everything.standard(port) is not None
            nowhere = owner in self.offers and port and not everywhere and port not in self.everything.ports
            if nowhere and not _depends_on_options(port, self.everything):
                problem = f'no detector has a port "{port}".{choices(port, self.everything.ports)}'
                self.document.report((*path, index), problem)
                self.certain.append((*path, index))
                return None
        return super()._first_offered(texts, path)

    def _owned(self, parsed: Reference, path: Steps) -> str | None:
        offers = self.offers[parsed.base]
        if not parsed.module and not self.wiring.own.wanted and offers.standard(parsed.rest):
            return self.port(parsed.base, parsed.rest)
        if not parsed.module and parsed.rest not in offers.ports and _depends_on_options(parsed.rest, offers):
            return self._unknown(parsed)
        return super()._owned(parsed, path)

    def _interior(self, parsed: Reference, path: Steps) -> str | None:
        return self._unknown(parsed)

    def _output(self, parsed: Reference, path: Steps) -> str | None:
        built = self.entries.get(parsed.base)
        if isinstance(built, Rewiring) and not parsed.rest:
            calls = self._calls_of(built)
            single = next((call for call in calls if len(call.outputs) == 1), None)
            if single is not None:
                return self._called(built, next(iter(single.outputs)))
        if built is None:
            return None  # the node itself is at fault, and that was said
        return super()._output(parsed, path)

    def _calls_of(self, rewiring: Rewiring) -> list[Any]:
        if self.parts.declared(rewiring.owner):
            return [rewiring.call]
        declared = str(self.method.nodes[rewiring.name].call)
        module = self.method.modules.get(declared)
        text = declared if module is None or module.source is None else module.source
        return self.offers[rewiring.owner].called(text.partition(".")[2])

    def _unknown(self, parsed: Reference) -> str:
        """A value of which nothing is known before a bench names the detector."""
        if parsed.whole not in self.nodes:
            self.nodes.add(Node(parsed.whole, Role.INPUT, value=Value(ANY)))
        return parsed.whole


def _depends_on_options(port: str, offers: AnyDetector) -> bool:
    """True for a port that exists under other options (``head.cls_tower.5``), or of a detector that options alone describe."""
    stem, _, last = port.rpartition(".")
    if last.isdigit() and stem in offers.ports:
        return True
    return offers.unknown and not get_close_matches(port, list(offers.ports), n=1, cutoff=_ALIKE)


def _foreign_owners(method: Method, lost: Collection[str]) -> list[str]:
    """First words of references that look like teachers of a bench: nothing else, and nothing that is written alike."""
    known = {*method.nodes, *method.prepare, *method.modules, *lost, *RESERVED, "teacher"}
    entries: list[Any] = [*method.nodes.values(), *method.terms.values(), *method.prepare.values()]
    found: dict[str, None] = {}
    for entry in entries:
        for value in [*entry.arguments.values(), getattr(entry, "call", None)]:
            parts = value.values() if is_pair(value) else value if isinstance(value, list) else [value]
            for text in parts:
                base, dot, _ = str(text).partition(".") if isinstance(text, str) else ("", "", "")
                if dot and base.isidentifier() and base not in known and not get_close_matches(base, known, n=1, cutoff=0.6):
                    found[base] = None
    return list(found)


def _check_schedules(method: Method, document: Document) -> None:
    shared = read_schedule(method.schedule, document, ("schedule",))
    for name, term in method.terms.items():
        own = read_schedule(term.schedule, document, ("terms", name, "schedule"))
        if not own.ever_counts() or (not name.startswith("det.") and not own.times(shared).ever_counts()):
            path: Steps = ("terms", name, "schedule") if term.schedule else ("schedule",)
            document.report(path, f'the schedule is 0 all the time, so "{name}" never counts; let it begin before it ends')


def _check_places(method: Method, document: Document) -> None:
    """Places that terms name in the taxonomy."""
    for name, term in method.terms.items():
        for place in () if term.at is None else (term.at,) if isinstance(term.at, str) else term.at:
            if place not in (tree := load_tree()):
                known = [node.id for node in tree]
                document.report(("terms", name, "at"), f'no taxonomy node "{place}".{choices(place, known)}')


def _check_phase_terms(method: Method, document: Document, student: AnyDetector, names: Collection[str]) -> None:
    """Patterns of phases that fit no term."""
    own = [f"kd/{name}" for name in names]
    for index, phase in enumerate(method.phases):
        for position, pattern in enumerate(phase.terms):
            counted = phase.model_copy(update={"terms": (pattern,)})
            if pattern in ("*", "det/*") or any(map(counted.counts, own)):
                continue
            if not any(counted.counts(f"det/{name}") for name in student.losses):
                problem = f'"{pattern}" fits no term.{choices(pattern, [*names, "kd/*", "det/*"])}'
                document.report(("phases", index, "terms", position), problem)


def _place_all(graph: Graph, document: Document) -> None:
    """Check the kinds of all inputs, as far as they are known without running anything."""
    unknown: set[str] = set()
    for node in graph.ordered():
        if node.role is Role.STAGE:
            continue
        judged = not any(operand in unknown for operand in node.operands()) and place_kinds(graph, node, document)
        if not judged or (node.value.kind is ANY and not node.value.outputs):
            unknown.add(node.name)
