"""Check phases, inherited weights and wiring against what was compiled: names that fit nothing, and what cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kdflow.errors import UsageError, choices
from kdflow.graph.inherit import check_rule
from kdflow.graph.node import Graph, Role
from kdflow.graph.plan import Plan
from kdflow.graph.predict import predictions
from kdflow.ports import Detector
from kdflow.spec.load import Document, Steps
from kdflow.spec.method import PARENT, Inherit, Method, trains


def check_learners(method: Method, detectors: Mapping[str, Detector], document: Document) -> None:
    """A teacher that trains becomes a part of the plan, so its name must be free there."""
    taken = {*dir(Plan), *Plan.__annotations__}
    for owner in detectors:
        if owner != "student" and owner in taken and any(phase.names(owner) for phase in method.phases):
            document.report(("phases",), f'a teacher called "{owner}" cannot train; give it another name in the bench')


def check_wiring(method: Method, graph: Graph, document: Document) -> None:
    """A detector predicts without ground truth and without other detectors, however it is wired."""
    for name in predictions(method, graph):
        owner = name.partition(".")[0]
        path = next(("wiring", key) for key in method.wiring if key.startswith(f"{owner}."))
        for needed in sorted(graph.upstream(name)):
            node = graph[needed]
            if node.role is Role.INPUT and needed.startswith("targets."):
                document.report(path, f"wired so, the {owner} predicts from {needed}, which it has in training only")
            if node.role is Role.STAGE and node.owner != owner:
                document.report(path, f"wired so, the {owner} needs {node.owner}.{node.stage} for its predictions")


def check_phases(method: Method, plan: Plan, document: Document) -> None:
    """Every phase has terms, every term a phase, and patterns and inheritance fit something."""
    _check_init(method.init, plan.detectors, document, ("init",))
    names = [phase.name for phase in method.phases]
    for index, phase in enumerate(method.phases):
        path: Steps = ("phases", index)
        if phase.name in names[:index]:
            document.report((*path, "name"), f'there are two phases called "{phase.name}"')
        if not any(phase.counts(term.name) for term in plan.terms):
            document.report((*path, "terms"), "no term counts in this phase")
        for pattern in _unknown(phase.train, plan):
            parts = {f"{'.'.join(name.split('.')[:2])}.*" for name, _ in plan.named_parameters()}
            document.report((*path, "train"), f'"{pattern}" fits no parameter.{choices(pattern, parts)}')
        _check_init(phase.init, plan.detectors, document, (*path, "init"))
        for place, rule in enumerate(phase.init):
            if rule.source == PARENT:
                problem = f'"{PARENT}" is there when a run begins; write this under init: at the top of the file'
                document.report((*path, "init", place), problem)
    for term in plan.terms:
        if method.phases and term.is_distillation and not any(phase.counts(term.name) for phase in method.phases):
            document.report(("terms", term.name.partition("/")[2]), "this term counts in no phase")


def _unknown(patterns: Sequence[str], plan: Plan) -> list[str]:
    """Patterns that fit neither a parameter nor a module (which may have no parameters on these detectors)."""
    known = [*(name for name, _ in plan.named_parameters()), *(f"{name}." for name, _ in plan.named_modules() if name)]
    return [pattern for pattern in patterns if not any(trains(pattern, name) for name in known)]


def _check_init(rules: Sequence[Inherit], detectors: Mapping[str, Detector], document: Document, path: Steps) -> None:
    for index, rule in enumerate(rules):
        try:
            check_rule(rule, detectors)
        except UsageError as error:
            document.report((*path, index), str(error))
