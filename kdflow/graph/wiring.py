"""The detectors in the graph: their stages with their own wiring, or rewired by a call of the method."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from kdflow.errors import choices
from kdflow.graph.classes import ClassOrder
from kdflow.graph.declared import Declared
from kdflow.graph.inputs import Inputs
from kdflow.graph.node import Node, Role, Value
from kdflow.graph.rewire import OwnWiring, Wanted
from kdflow.graph.rewiring import Rewiring
from kdflow.kinds import ANY, LOSSES
from kdflow.ports import BATCH_PORTS, CLASS_LABELS, Detector, Port
from kdflow.spec.reference import Reference


class Wiring:
    """Adds stages and ports of detectors to a graph, each once.

    Args:
        nodes: Receives the nodes.
        detectors: Owner (``student``, ``teacher``, ...) -> detector.
        inputs: Values of the batch, and given ones, at which the graph is cut.
        own: What the method changes in the detectors themselves.
    """

    def __init__(self, nodes: Declared, detectors: Mapping[str, Detector], inputs: Inputs, own: OwnWiring) -> None:
        self.nodes, self.detectors, self.inputs, self.own = nodes, detectors, inputs, own
        self.orders = {owner: ClassOrder.of(detectors, owner) for owner in detectors}
        self.rewired: dict[tuple[str, str], Wanted] = {}
        self._stages: dict[tuple[str, str, str], str] = {}
        self._open: list[tuple[Node, Rewiring | None]] = []

    def port(self, owner: str, port: str, rewiring: Rewiring | None = None) -> str:
        """The node of a port, under the owner's own wiring or a rewired one."""
        if port in BATCH_PORTS:
            return self.inputs.node(port)
        if rewiring and (node := rewiring.node_of(port)) is not None:
            return node
        text = f"{owner}.{port}"
        if text in self.inputs.given:
            return self.inputs.node(text)
        spec = self.detectors[owner].ports[port]
        stage = self.stage(owner, spec.stage, rewiring)
        name = text if stage == f"{owner}:{spec.stage}" or rewiring is None else rewiring.name_of(port)
        if name not in self.nodes:
            self.nodes.add(_pick(name, owner, stage, spec))
        return name

    def stage(self, owner: str, stage: str, rewiring: Rewiring | None = None) -> str:
        """The node of a stage, which :meth:`join` gives its inputs; a rewiring that does not touch it shares the owner's own."""
        if rewiring and not self._depends(owner, stage, rewiring):
            rewiring = rewiring.base
        key = (owner, stage, rewiring.name if rewiring else "")
        if key not in self._stages:
            node = self._stage_node(owner, stage, rewiring)
            self._stages[key] = self.nodes.add(node)
            self._open.append((node, rewiring))
        return self._stages[key]

    def _stage_node(self, owner: str, stage: str, rewiring: Rewiring | None) -> Node:
        run = self.detectors[owner].stages[stage]
        if rewiring is None:
            options = dict(run.options)
            return Node(f"{owner}:{stage}", Role.STAGE, {}, options, owner=owner, stage=stage, run=run, value=Value(LOSSES))
        run, copied = rewiring.copies.get(stage, (run, None))
        return Node(
            f"{rewiring.name}:{stage}",
            Role.STAGE,
            {},
            {**run.options, **rewiring.options.get(stage, {})},
            owner=owner,
            stage=stage,
            run=run,
            value=Value(LOSSES),
            copied=copied,
            weights=rewiring.weights if copied else "",
        )

    def join(self) -> None:
        """Give every stage its inputs, and those stages theirs; all references of the method are followed by now."""
        while self._open:
            node, rewiring = self._open.pop()
            for argument, port in self.detectors[node.owner].stages[node.stage].reads.items():
                node.inputs[argument] = self._stage_input(node, argument, port, rewiring)

    def _stage_input(self, node: Node, argument: str, port: str, rewiring: Rewiring | None) -> str:
        owner, place = node.owner, f"{node.stage}:{argument}"
        if rewiring and place in rewiring.found:
            return rewiring.found[place]
        replaced = rewiring is not None and rewiring.node_of(port) is not None
        for changed in (place,) if replaced else (place, port):
            if (own := self.own.node(owner, changed)) is not None:
                self.rewired[node.name, own] = self.own.wanted[owner, changed]
                return own
        read, order = self.port(owner, port, rewiring), self.orders.get(owner)
        return order.labels(self.nodes, read, inward=True) if order and port == "targets.labels" else read

    def _depends(self, owner: str, stage: str, rewiring: Rewiring) -> bool:
        """True when the stage, or one it needs, is touched by the rewiring."""
        if rewiring.touches(stage):
            return True
        detector = self.detectors[owner]
        for argument, port in detector.stages[stage].reads.items():
            if self.own.replaces(owner, f"{stage}:{argument}"):
                continue
            if port in rewiring.wanted:
                return True
            if port in BATCH_PORTS or self.own.replaces(owner, port):
                continue
            if self._depends(owner, detector.ports[port].stage, rewiring):
                return True
        return False

    def in_our_classes(self, owner: str, port: str, node: str) -> str:
        """A teacher's class scores and labels as the method sees them: in the student's order."""
        order = self.orders.get(owner)
        return node if order is None else order.ours(self.nodes, node, self.detectors[owner].ports[port].classes)

    def in_their_classes(self, owner: str, place: str, node: str) -> str:
        """A value for a port or a stage's argument (``losses:labels``), in the order of the detector that receives it."""
        order, detector = self.orders.get(owner), self.detectors[owner]
        stage, _, argument = place.partition(":")
        port = detector.stages[stage].reads[argument] if argument else place
        batch = {"targets.labels": CLASS_LABELS}
        classes = batch.get(port) if port in BATCH_PORTS else detector.ports[port].classes
        if order is None or classes is None:
            return node
        if node.endswith("~classes"):
            (operand, *_) = self.nodes[node].operands()
            if self.nodes[operand].owner == owner:
                return operand  # its own value comes back
        return order.theirs(self.nodes, node, classes)

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
        node = self.nodes[self.stage(parsed.base, stage)]
        node.options.setdefault("taps", {})[parsed.module] = wanted
        name = parsed.whole
        if name not in self.nodes:
            port = Port(parsed.rest, ANY, node=_node_of(detector, stage, wanted), stage=stage, key=f"@{parsed.module}")
            self.nodes.add(_pick(name, parsed.base, node.name, port))
        return name

    def _refuse_classes(self, parsed: Reference, wanted: nn.Module) -> None:
        detector, path = self.detectors[parsed.base], parsed.module
        if not set(wanted.modules()).isdisjoint(detector.class_modules()):
            ports = [f"{parsed.base}.{port.name}" for port in detector.ports.values() if port.classes and port.node]
            raise LookupError(
                f'{parsed.base}@{path} has numbers per class, and the classes of {parsed.base} stand in another order than the '
                f"student's, which is translated for ports alone; read a port instead: {', '.join(ports)}"
            )


def _pick(name: str, owner: str, stage: str, port: Port) -> Node:
    value = Value(port.kind, strides=port.strides, form=port.form)
    return Node(name, Role.PICK, {"stage": stage}, owner=owner, key=port.key, port=port, value=value)


def _node_of(detector: Detector, stage: str, module: nn.Module) -> str | None:
    """Taxonomy node of a module inside a stage: what the stage says of it or of a module around it, else of its first port."""
    run = detector.stages[stage]
    path = next(name for name, own in run.run.named_modules() if own is module)
    said = [place for place in run.nodes if path == place or path.startswith(f"{place}.")]
    if said:
        return run.nodes[max(said, key=len)]
    return next((port.node for port in detector.ports.values() if port.stage == stage and port.node), None)
