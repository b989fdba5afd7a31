"""Checks every part of a method file, also those parts that a bench leaves aside."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdflow.errors import Fault
from kdflow.graph.outline import outline
from kdflow.ports import DETECTORS
from kdflow.spec.cases import Case, cases_of, report_conditions
from kdflow.spec.leads import declared
from kdflow.spec.load import Document, Mark, Steps
from kdflow.spec.paths import BENCH_PATHS, steps_of
from kdflow.spec.resolve import MethodSpec
from kdflow.spec.salvage import salvage
from kdflow.spec.variants import Context


@dataclass
class _Judged:
    """One case with what is wrong in it: place in the file -> path and fault."""

    variants: frozenset[int]
    document: Document
    faults: dict[Mark, tuple[Steps, Fault]]
    certain: frozenset[Mark] = frozenset()
    hopeless: bool = False

    def has(self, path: Steps, mark: Mark) -> bool:
        """True where what is written at ``mark`` stands at ``path`` in this case."""
        data: Any = self.document.data
        if path[:1] == ("search",) and len(path) > 1 and str(path[1]).startswith(BENCH_PATHS):
            ranges = data.get("search")
            return isinstance(ranges, dict) and path[1] in ranges and self.document.mark(path) == mark
        for step in steps_of(str(path[1]))[:2] if path[:1] == ("search",) and len(path) > 1 else path[:2]:
            if not isinstance(data, dict) or step not in data:
                return not isinstance(data, dict)
            data = data[step]
        return self.document.mark(path) == mark


def faults_everywhere(spec: MethodSpec, benches: Sequence[str], context: Context | None = None) -> list[Fault]:
    """What is wrong with a method file wherever it applies: names, kinds, variants and their conditions.

    Something is a fault when it is one in every case (a choice of variants that apply together) in which it is there at all.
    Beyond that the file without its variants must make sense, and each variant in one case at least.

    Args:
        spec: The method as written.
        benches: Names of the benches that are known.
        context: The bench at hand, where the method is compiled anyway: what applies there is left to the compiler.
    """
    families = {name: DETECTORS.get(name).family for name in DETECTORS.names()}
    found = Document(spec.document.file, spec.document.data, spec.document.marks)
    report_conditions(spec.document, found, families, benches)
    cases = _judged_cases(spec, families, benches)
    here = frozenset(spec.chosen(context))
    at_hand = None if context is None else _Judged(here, spec.applied(here), {})
    for case in [*_broken(cases, () if at_hand is None else here), *cases]:
        for mark, (path, fault) in case.faults.items():
            there = [other for other in cases if other.has(path, mark)]
            everywhere = all(mark in other.faults for other in there)
            compiled = at_hand is not None and at_hand.has(path, mark) and mark not in case.certain
            if not compiled and (everywhere or case.hopeless):
                found.faults.append(fault)
    return list(dict.fromkeys(found.faults))


_KEPT: dict[str, list[_Judged]] = {}
_AT_MOST = 64


def _judged_cases(spec: MethodSpec, families: dict[str, str], benches: Sequence[str]) -> list[_Judged]:
    """The file without its variants on any detectors, then all cases; kept, since a method is often looked at many times."""
    document = spec.document
    key = repr((document.file, document.data, document.marks, sorted(families), tuple(dict.fromkeys(benches))))
    if key not in _KEPT:
        whole = Case(frozenset(), {owner: set(families) for owner in ("student", "teacher")})
        variants = [case for case in cases_of(document, families, benches, _lost(spec)) if case.variants]
        while len(_KEPT) >= _AT_MOST:
            del _KEPT[next(iter(_KEPT))]
        _KEPT[key] = [_judge(spec, case, families) for case in [whole, *variants]]
    return _KEPT[key]


def _lost(spec: MethodSpec) -> list[int]:
    """Variants whose paths lead nowhere."""
    found = Document(spec.document.file)
    for index in range(len(spec.variants)):
        spec.check_variant(index, found)
    return [int(path[1]) for path, _ in found.places]


def _broken(cases: Sequence[_Judged], here: Collection[int]) -> list[_Judged]:
    """For every variant that works in no case, the smallest case with it; and the file without variants if that does not work."""
    variants = sorted({index for case in cases for index in case.variants} - set(here))
    smallest = [next(c for c in cases if i in c.variants) for i in variants if all(c.faults for c in cases if i in c.variants)]
    return [replace(case, hopeless=True) for case in [cases[0], *smallest] if case.faults]


def _judge(spec: MethodSpec, case: Case, families: dict[str, str]) -> _Judged:
    document = spec.applied(case.variants)
    method, lost = salvage(document)
    certain: list[Steps] = []
    if method is not None:
        wanted = {owner: {families[name] for name in names} for owner, names in case.detectors.items()}
        certain = outline(method, document, wanted, lost, declared(spec.document.data, "terms"))
    faults: dict[Mark, tuple[Steps, Fault]] = {}
    for path, fault in document.places:
        faults.setdefault((fault.line, fault.column), (path, fault))
    return _Judged(case.variants, document, faults, frozenset(map(document.mark, certain)))
