"""The detectors in the graph: their stages with their own wiring, or rewired by a call of the method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from kdflow.errors import choices
from kdflow.graph.classes import ClassOrder
from kdflow.graph.copies import CopiedStages
from kdflow.graph.node import Graph, Node, Role, Value
from kdflow.graph.rewire import OwnWiring
from kdflow.kinds import ANY, LOSSES
from kdflow.ports import BATCH_PORTS, CLASS_LABELS, Call, Detector, Port, Stage
from kdflow.spec.reference import Reference


@dataclass
class Rewiring:
    """What a call replaces: whole ports, single arguments and options of stages, and the stages themselves by copies.

    Attributes:
        base: What holds where this replaces nothing; None: the owner's own wiring.
    """

    name: str
    owner: str
    call: Call
    ports: dict[str, str] = field(default_factory=dict)
    arguments: dict[tuple[str, str], str] = field(default_factory=dict)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    copies: Mapping[str, tuple[Stage, CopiedStages]] = field(default_factory=dict)
    weights: str = ""
    base: Rewiring | None = None

    def name_of(self, port: str) -> str:
        """The rewired port as the method writes it: ``shared.logits``."""
        words = (word for word, place in self.call.outputs.items() if place == port)
        return f"{self.name}.{next(words, port)}"


class Wiring:
    """Adds stages and ports of detectors to a graph, each once.

    Args:
        graph: Receives the nodes.
        detectors: Owner (``student``, ``teacher``, ...) -> detector.
        given: References whose values are given: the graph is cut there.
        source: Adds the node of a batch value or given value.
        own: What the method changes in the detectors themselves.
    """

    def __init__(
        self,
        graph: Graph,
        detectors: Mapping[str, Detector],
        given: Mapping[str, Any],
        source: Callable[[str], str],
        own: OwnWiring,
    ) -> None:
        self.graph = graph
        self.detectors = detectors
        self.given = given
        self.source = source
        self.own = own
        self.orders = {owner: ClassOrder.of(detectors, owner) for owner in detectors}
        self._stages: dict[tuple[str, str, str], str] = {}

    def port(self, owner: str, port: str, rewiring: Rewiring | None = None) -> str:
        """The node of a port, under the owner's own wiring or a rewired one."""
        if port in BATCH_PORTS:
            return self.source(port)
        if (node := _replaced(rewiring, port)) is not None:
            return node
        text = f"{owner}.{port}"
        if text in self.given:
            return self.source(text)
        spec = self.detectors[owner].ports[port]
        stage = self.stage(owner, spec.stage, rewiring)
        name = text if self.graph[stage].name == f"{owner}:{spec.stage}" or rewiring is None else rewiring.name_of(port)
        if name not in self.graph:
            self.graph.add(
                Node(
                    name,
                    Role.PICK,
                    {"stage": stage},
                    owner=owner,
                    key=spec.key,
                    port=spec,
                    value=Value(spec.kind, strides=spec.strides, form=spec.form),
                )
            )
        return name

    def stage(self, owner: str, stage: str, rewiring: Rewiring | None) -> str:
        """The node of a stage; a rewiring that does not touch it shares the owner's own."""
        if rewiring and not self._depends(owner, stage, rewiring):
            rewiring = rewiring.base
        key = (owner, stage, rewiring.name if rewiring else "")
        if key in self._stages:
            return self._stages[key]
        run, copied = self.detectors[owner].stages[stage], None
        if rewiring and stage in rewiring.copies:
            run, copied = rewiring.copies[stage]
        inputs = {
            argument: self._stage_input(owner, stage, argument, port, rewiring) for argument, port in run.reads.items()
        }
        if key in self._stages:  # a circle in the method's wiring, which is reported, built it on the way
            return self._stages[key]
        options = {**run.options, **(rewiring.options.get(stage, {}) if rewiring else {})}
        name = f"{rewiring.name}:{stage}" if rewiring else f"{owner}:{stage}"
        self._stages[key] = self.graph.add(
            Node(
                name,
                Role.STAGE,
                dict(inputs),
                options,
                owner=owner,
                stage=stage,
                run=run,
                value=Value(LOSSES),
                copied=copied,
                weights=rewiring.weights if rewiring and copied else "",
            )
        )
        return name

    def _stage_input(self, owner: str, stage: str, argument: str, port: str, rewiring: Rewiring | None) -> str:
        if rewiring and (stage, argument) in rewiring.arguments:
            return rewiring.arguments[stage, argument]
        replaced = _replaced(rewiring, port) is not None
        own = self.own.node(owner, f"{stage}:{argument}") or (None if replaced else self.own.node(owner, port))
        if own is not None:
            return own
        node, order = self.port(owner, port, rewiring), self.orders.get(owner)
        return order.labels(self.graph, node, inward=True) if order and port == "targets.labels" else node

    def _depends(self, owner: str, stage: str, rewiring: Rewiring) -> bool:
        """True when the stage, or one it needs, is touched by the rewiring."""
        copied = rewiring.base is None and stage in rewiring.copies
        if copied or stage in rewiring.options or any(s == stage for s, _ in rewiring.arguments):
            return True
        detector = self.detectors[owner]
        for argument, port in detector.stages[stage].reads.items():
            if self.own.replaces(owner, f"{stage}:{argument}"):
                continue
            if port in rewiring.ports:
                return True
            if port in BATCH_PORTS or self.own.replaces(owner, port):
                continue
            if self._depends(owner, detector.ports[port].stage, rewiring):
                return True
        return False

    def in_our_classes(self, owner: str, port: str, node: str) -> str:
        """A teacher's class scores and labels as the method sees them: in the student's order."""
        order = self.orders.get(owner)
        return node if order is None else order.ours(self.graph, node, self.detectors[owner].ports[port].classes)

    def in_their_classes(self, owner: str, place: str, node: str) -> str:
        """A value for a port or a stage's argument (``losses:labels``), in the order of the detector that receives it."""
        order, detector = self.orders.get(owner), self.detectors[owner]
        stage, _, argument = place.partition(":")
        port = detector.stages[stage].reads[argument] if argument else place
        batch = {"targets.labels": CLASS_LABELS}
        classes = batch.get(port) if port in BATCH_PORTS else detector.ports[port].classes
        if order is None or classes is None:
            return node
        (operand, *_) = [*self.graph[node].operands(), ""]
        if node.endswith("~classes") and self.graph[operand].owner == owner:
            return operand  # its own value comes back
        return order.theirs(self.graph, node, classes)

    def interior(self, parsed: Reference) -> str:
        """The output of a submodule: the stage that runs it is asked to hand it out as well.

        Raises:
            LookupError: No such module, no stage runs it, or its numbers belong to classes that stand in another order than the
                student's; the text says so.
        """
        detector = self.detectors[parsed.base]
        modules = dict(detector.model.named_modules())
        if parsed.module not in modules:
            raise LookupError(f'{parsed.base} has no module "{parsed.module}".{choices(parsed.module, modules)}')
        wanted = modules[parsed.module]
        if self.orders.get(parsed.base) is not None:
            self._refuse_classes(parsed, wanted)
        stage = next((n for n, s in detector.stages.items() if any(m is wanted for m in s.run.modules())), None)
        if stage is None:
            raise LookupError(f'"{parsed.module}" is run by no stage of {detector.name}')
        node = self.graph[self.stage(parsed.base, stage, None)]
        node.options.setdefault("taps", {})[parsed.module] = wanted
        name = parsed.whole
        if name not in self.graph:
            port = Port(parsed.rest, ANY, node=_node_of(detector, stage, wanted), stage=stage, key=f"@{parsed.module}")
            self.graph.add(
                Node(
                    name, Role.PICK, {"stage": node.name}, owner=parsed.base, key=port.key, port=port, value=Value(ANY)
                )
            )
        return name

    def _refuse_classes(self, parsed: Reference, wanted: nn.Module) -> None:
        detector, path = self.detectors[parsed.base], parsed.module
        if not set(wanted.modules()).isdisjoint(detector.class_modules()):
            ports = [f"{parsed.base}.{port.name}" for port in detector.ports.values() if port.classes and port.node]
            raise LookupError(
                f'{parsed.base}@{path} has numbers per class, and the classes of {parsed.base} stand in another order than the '
                f"student's, which is translated for ports alone; read a port instead: {', '.join(ports)}"
            )


def _replaced(rewiring: Rewiring | None, port: str) -> str | None:
    """What stands for a port, by a rewiring or by what holds beneath it."""
    while rewiring is not None:
        if port in rewiring.ports:
            return rewiring.ports[port]
        rewiring = rewiring.base
    return None


def _node_of(detector: Detector, stage: str, module: nn.Module) -> str | None:
    """Taxonomy node of a module inside a stage: what the stage says of it or of a module around it, else of its first port."""
    run = detector.stages[stage]
    path = next(name for name, own in run.run.named_modules() if own is module)
    said = [place for place in run.nodes if path == place or path.startswith(f"{place}.")]
    if said:
        return run.nodes[max(said, key=len)]
    return next((port.node for port in detector.ports.values() if port.stage == stage and port.node), None)
