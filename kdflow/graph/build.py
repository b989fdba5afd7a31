"""Resolve names: from a method and its detectors to a graph. All of a spec's mistakes are collected and show at once."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel
from torch.nn import ModuleDict

from kdflow.errors import choices
from kdflow.graph.calls import Calls
from kdflow.graph.names import check_names
from kdflow.graph.node import Graph, Node, Operand, Role, Value
from kdflow.graph.parts import Parts
from kdflow.graph.per_level import checked_options
from kdflow.graph.rewire import DETECTIONS, OwnWiring
from kdflow.graph.sides import SIDES, BothSides, Sides
from kdflow.graph.terms import add_terms
from kdflow.graph.wiring import Rewiring, Wiring
from kdflow.kinds import ANY, Kind
from kdflow.operation import OPS, Op
from kdflow.ports import BATCH_PORTS, DETECTORS, Detector, Port
from kdflow.spec.load import Document, Steps
from kdflow.spec.method import Method, NodeEntry, Preparation, TermEntry
from kdflow.spec.reference import Reference, parse_reference
from kdflow.standard_ports import standard_of


class Builder:
    """Builds the graph of one method on the detectors of one bench.

    Args:
        method: The resolved method.
        document: Where its lines stand; receives the faults.
        detectors: Owner (``student``, ``teacher``, ...) -> detector.
        given: Reference -> value, for evaluations on given values: the graph is cut at these places.
        kinds: Reference -> kind of a given value, where it is said.
        seed: Seed of the weights of parts that are built.

    Attributes:
        everyone: The detectors, and those that the method builds for a part of them.
    """

    def __init__(
        self,
        method: Method,
        document: Document,
        detectors: Mapping[str, Detector],
        given: Mapping[str, Any] | None = None,
        kinds: Mapping[str, Kind] | None = None,
        seed: int = 0,
    ) -> None:
        self.method = method
        self.document = document
        self.detectors = detectors
        self.everyone: dict[str, Detector] = dict(detectors)
        self.given = dict(given or {})
        self.given_kinds = dict(kinds or {})
        self.graph = Graph()
        self.own = OwnWiring(method, document, {} if given else detectors, self.reference)
        self.wiring = Wiring(self.graph, self.everyone, self.given, self._source, self.own)
        self._built: dict[str, str | Rewiring | BothSides | None] = {}
        self._building: list[str] = []
        self.calls = Calls(self)
        self.sides = Sides(self)
        self.parts = Parts(self, seed)

    def build(self) -> Graph:
        """The whole graph: the student's own wiring and losses, then the method's nodes and terms."""
        for owner, detector in () if self.given else self.detectors.items():
            for stage in detector.stages if owner == "student" or owner in self.own.owners else ():
                self.wiring.stage(owner, stage, None)
            if owner in self.own.owners and DETECTIONS in detector.ports:
                self.port(owner, DETECTIONS)
        for name in [*self.method.prepare, *self.method.nodes]:
            if not any(key == name or key.startswith(f"{name}.") for key in self.given):
                self._node(name)
        add_terms(self)
        check_names(self.method, self.document)
        self.parts.check(self.graph)
        return self.graph

    # references

    def reference(self, text: Any, path: Steps) -> str | None:
        """Node that ``text`` refers to; None after recording a fault. A list takes the first reference that exists."""
        if isinstance(text, (list, tuple)):
            return self._first_offered(text, path)
        if not isinstance(text, str):
            self.document.report(path, f"expected a reference such as student.neck, got {text!r}")
            return None
        try:
            parsed = parse_reference(text)
        except ValueError as error:
            self.document.report(path, str(error))
            return None
        whole = self._whole(parsed, path)
        return None if whole is None else self._part(whole, parsed, path)

    def _first_offered(self, texts: Any, path: Steps) -> str | None:
        for text in texts:
            if isinstance(text, str) and self._offered(text):
                return self.reference(text, path)
        self.document.report(path, f"none of {', '.join(map(str, texts))} is offered by these detectors")
        return None

    def _offered(self, text: str) -> bool:
        try:
            parsed = parse_reference(text)
        except ValueError:
            return False
        if parsed.whole in self.given or parsed.whole in BATCH_PORTS:
            return True
        if self.parts.declared(parsed.base):
            self.parts.whole(parsed.base)
        detector = self.everyone.get(parsed.base)
        return parsed.rest in detector.ports if detector else parsed.base in self.method.nodes

    def _part(self, whole: str, parsed: Reference, path: Steps) -> str:
        """The entry or slice of a stack that the reference asks for."""
        if parsed.index is None and parsed.span is None:
            return whole
        key: Any = parsed.index if parsed.span is None else slice(*parsed.span)
        name = f"{whole}{str(parsed)[len(parsed.whole) :]}"
        if name not in self.graph:
            self.graph.add(Node(name, Role.SLICE, {"stack": whole}, path=path, key=key))
        return name

    def _whole(self, parsed: Reference, path: Steps) -> str | None:
        text = parsed.whole
        if text in self.given:
            return self._given(text)
        if parsed.base in self.detectors:
            return self._owned(parsed, path)
        if self.parts.declared(parsed.base):
            return self._of_part(parsed, path)
        if text in BATCH_PORTS:
            return self._input(text, BATCH_PORTS[text])
        if parsed.base in self.method.nodes or parsed.base in self.method.prepare:
            return self._output(parsed, path)
        built = [name for name in self.method.modules if self.parts.declared(name)]
        known = [*self.detectors, *self.method.nodes, *self.method.prepare, *built, *BATCH_PORTS]
        if parsed.base.startswith("teacher"):
            self.document.report(
                path, f'"{text}": this run has no "{parsed.base}"; name one in the bench ({", ".join(self.detectors)})'
            )
        else:
            self.document.report(
                path, f'"{text}": no owner, node or batch value "{parsed.base}".{choices(parsed.base, known)}'
            )
        return None

    def _input(self, name: str, kind: Kind) -> str:
        return name if name in self.graph else self.graph.add(Node(name, Role.INPUT, value=Value(kind)))

    def _source(self, text: str) -> str:
        return self._given(text) if text in self.given else self._input(text, BATCH_PORTS[text])

    def _given(self, text: str) -> str:
        if text in self.graph:
            return text
        spec = self._given_port(text)
        value = Value(spec.kind if spec else ANY, strides=spec.strides if spec else (), form=spec.form if spec else "")
        if spec is None and text in BATCH_PORTS:
            value.kind = BATCH_PORTS[text]
        value.kind = self.given_kinds.get(text, value.kind)
        owner = text.split(".")[0]
        return self.graph.add(
            Node(
                text,
                Role.INPUT,
                port=spec,
                owner=owner if owner in self.detectors else "",
                value=value,
                given=self.given[text],
            )
        )

    def _given_port(self, text: str) -> Port | None:
        """What a given value stands for: a port of an owner, an output of a call, or a node's result."""
        base, _, rest = text.partition(".")
        if base in self.detectors:
            return self.detectors[base].ports.get(rest)
        if self.parts.declared(base):
            return Port(rest).within(self.family_of(base)) if standard_of(rest) else None
        entry = self.method.nodes.get(base) or self.method.prepare.get(base)
        if isinstance(entry, NodeEntry) and entry.call is not None:
            return self.calls.given_output(entry, rest)
        if entry is not None and entry.op is not None and entry.op in OPS:
            op = OPS.get(entry.op)
            first, _, behind = rest.partition(".")
            kind = _declared_kind(op, behind if first in SIDES and not _gives(op, first) else rest)
            return Port(rest, kind, node=None) if kind else None
        return None

    # detectors

    def _owned(self, parsed: Reference, path: Steps) -> str | None:
        detector = self.detectors[parsed.base]
        if parsed.module:
            return self._interior(parsed, path)
        if parsed.rest not in detector.ports:
            known = detector.ports
            self.document.report(
                path, f'{parsed.base} ({detector.name}) has no port "{parsed.rest}".{choices(parsed.rest, known)}'
            )
            return None
        return self.wiring.in_our_classes(parsed.base, parsed.rest, self.port(parsed.base, parsed.rest))

    def _of_part(self, parsed: Reference, path: Steps) -> str | None:
        """A port of a detector that was built for a part of it."""
        whole = self.parts.whole(parsed.base)
        if whole is None:
            return None
        detector = self.everyone[parsed.base]
        if parsed.module or parsed.rest not in detector.ports:
            problem = f'{parsed.base} ({detector.name}) has no port "{parsed.rest}{"@" if parsed.module else ""}{parsed.module}".'
            self.document.report(path, problem + choices(parsed.rest, detector.ports))
            return None
        return self.wiring.port(parsed.base, parsed.rest, whole)

    def family_of(self, owner: str) -> str:
        """The family of a detector, or of one that is to be built; empty where there is none."""
        module = self.method.modules.get(owner)
        name = module.build.detector if module is not None and module.build is not None else ""
        if owner in self.everyone:
            return self.everyone[owner].family
        return DETECTORS.get(name).family if name in DETECTORS else ""

    def _called(self, rewiring: Rewiring, output: str) -> str:
        port = rewiring.call.outputs[output]
        return self.wiring.in_our_classes(rewiring.owner, port, self.wiring.port(rewiring.owner, port, rewiring))

    def _interior(self, parsed: Reference, path: Steps) -> str | None:
        try:
            return self.wiring.interior(parsed)
        except LookupError as error:
            self.document.report(path, str(error.args[0]))
            return None

    def port(self, owner: str, port: str) -> str:
        """The node of a port under the owner's own wiring."""
        return self.wiring.port(owner, port)

    # nodes of the method

    def _node(self, name: str) -> str | Rewiring | BothSides | None:
        if name in self._built:
            return self._built[name]
        if name in self._building:
            loop = " -> ".join([*self._building[self._building.index(name) :], name])
            self.document.report(("nodes", name), f"the nodes form a circle: {loop}")
            return None
        self._building.append(name)
        if name in self.method.prepare:
            self._built[name] = self._prepared(name, self.method.prepare[name])
        else:
            self._built[name] = self._declared(name, self.method.nodes[name])
        self._building.pop()
        return self._built[name]

    def _declared(self, name: str, entry: NodeEntry) -> str | Rewiring | BothSides | None:
        path: Steps = ("nodes", name)
        if name in self.detectors or name in {port.split(".")[0] for port in BATCH_PORTS}:
            self.document.report(path, f'"{name}" is the name of a detector or batch value; choose another')
            return None
        if entry.call is not None:
            if entry.share:
                self.document.report((*path, "share"), "share: is for ops; a call's stages have the weights of their detector")
            return self.calls.rewiring(name, entry, path)
        if entry.share and entry.op is not None and entry.op in OPS and not OPS.get(entry.op).is_module:
            self.document.report((*path, "share"), f"{entry.op} has no weights to share; leave share: out")
        options, operation, weights = dict(entry.arguments), entry.op, name
        if entry.module is not None:
            if entry.module not in self.method.modules:
                self.document.report(
                    (*path, "module"), f'no module "{entry.module}".{choices(entry.module, self.method.modules)}'
                )
                return None
            shared = self.method.modules[entry.module]
            if shared.op is None:
                what = "a copy" if shared.source else "a part of a detector"
                self.document.report((*path, "module"), f'"{entry.module}" is {what}; write call: {entry.module}')
                return None
            for key in ("op", *shared.arguments):
                if key not in options:  # what the module says is wrong, if it is, where the module says it
                    self.document.marks[*path, key] = self.document.mark(("modules", entry.module, key))
            options, operation, weights = {**shared.arguments, **options}, shared.op, entry.module
        if operation is not None and operation in OPS:
            op, before = OPS.get(operation), len(self.document.faults)
            if self.sides.has_two(op, options, path):
                return self._both(name, op, options, path, entry)
            if len(self.document.faults) > before:
                return None
        return self.op(name, operation or "", options, path, share=entry.share == "levels", weights=weights)

    def _both(self, name: str, op: Op, options: dict[str, Any], path: Steps, entry: NodeEntry) -> BothSides | None:
        """The entry once for each side; weights of their own, unless they are those of a module."""
        nodes: dict[str, str | None] = {}
        before = len(self.document.faults)
        for side in SIDES:
            weights = entry.module or f"{name}_{side}"
            if op.is_module and entry.module is None and (weights in self.method.nodes or weights in self.method.modules):
                problem = f'the weights of "{name}" are kept as "{weights}"; give that entry another name'
                self.document.report(("nodes", name), problem)
            if any(key == f"{name}.{side}" or key.startswith(f"{name}.{side}.") for key in self.given):
                continue
            taken = self.sides.taken(op, options, side)
            nodes[side] = self.op(f"{name}.{side}", op.name, taken, path, share=entry.share == "levels", weights=weights)
            if len(self.document.faults) > before:
                return None  # the other side would say the same again
        return BothSides(nodes)

    def _prepared(self, name: str, entry: Preparation) -> str | None:
        return self.op(name, entry.op, dict(entry.arguments), ("prepare", name), prepared=True)

    def op(
        self,
        name: str,
        operation: str,
        arguments: dict[str, Any],
        path: Steps,
        *,
        share: bool = False,
        weights: str = "",
        prepared: bool = False,
    ) -> str | None:
        """Add an op node; None after recording what is wrong with its keys."""
        op = self._find_op(operation, (*path, "loss" if path[0] == "terms" else "op"))
        if op is None:
            self._look_over(arguments, path)
            return None
        if op.is_module and hasattr(ModuleDict, weights or name):
            self.document.report(
                path, f'torch has a "{weights or name}" of its own where weights are kept; choose another name'
            )
            return None
        before, broken = len(self.document.faults), False
        call_inputs = dict(op.observes) if prepared else op.inputs
        known = [*call_inputs, *op.options.model_fields]
        for key in arguments:
            if key not in known:
                offered = [*known, *_own_keys(path)]
                self.document.report((*path, key), f'{op.name} has no input or option "{key}".{choices(key, offered)}')
        given = {k: v for k, v in arguments.items() if k in op.options.model_fields}
        options = checked_options(op.options, given, self.document, path)
        inputs: dict[str, Operand] = {}
        for key, wanted in call_inputs.items():
            if (text := arguments.get(key, wanted.default)) is None:
                if wanted.required:
                    self.document.report(
                        path, f'{op.name} needs the input "{key}" ({wanted.kind}); write {key}: REFERENCE'
                    )
                continue
            operand = self.operand(text, wanted.many, (*path, key))
            if operand is None:
                broken = True  # the fault may have been recorded where the named node was built
            else:
                inputs[key] = operand
        if broken or len(self.document.faults) > before or options is None:
            return None
        for key, meta in op.metas.items():
            if meta == "canvas" and not prepared and (not self.given or "images" in self.given):
                inputs[key] = self._whole(Reference("images"), path) or ""
        return self.graph.add(
            Node(
                name,
                Role.OP,
                inputs,
                options,
                path,
                op=op,
                share=share,
                weights=weights or name,
                prepared=prepared,
            )
        )

    def operand(self, text: Any, many: bool, path: Steps) -> Operand | None:
        """One reference, or with ``many`` a tuple of them; None after recording a fault."""
        if not many:
            return self.reference(text, path)
        texts = text if isinstance(text, (list, tuple)) else [text]
        found = [self.reference(t, (*path, i)) for i, t in enumerate(texts)]
        return None if None in found else tuple(f for f in found if f is not None)

    def _look_over(self, arguments: Mapping[str, Any], path: Steps) -> None:
        """Report what is wrong with the arguments of an unknown op, as far as that can be said without its signature."""
        for key, value in arguments.items():
            if key in ("student", "teacher") or (isinstance(value, str) and value.partition(".")[0] in self.detectors):
                self.reference(value, (*path, key))
            elif close := get_close_matches(key, _own_keys(path), n=1, cutoff=0.8):
                self.document.report((*path, key), f'unknown key "{key}". Did you mean "{close[0]}"?')

    def _find_op(self, operation: str, path: Steps) -> Op | None:
        if operation in OPS:
            return OPS.get(operation)
        group = operation.split(".")[0]
        alike = [name for name in OPS if name.startswith(f"{group}.")]
        hint = f"\"kdflow ops '{group}.*'\" lists these" if alike else '"kdflow ops" lists all'
        self.document.report(path, f'no op "{operation}".{choices(operation, alike or OPS)}; {hint}')
        return None

    def _output(self, parsed: Reference, path: Steps) -> str | None:
        """A node of the method, or one output of it."""
        built = self._node(parsed.base)
        if isinstance(built, Rewiring):
            outputs = built.call.outputs
            if not parsed.rest and len(outputs) == 1:
                return self._called(built, next(iter(outputs)))
            if parsed.rest not in outputs:
                self.document.report(path, f'the call "{parsed.base}" gives {", ".join(outputs)}, not "{parsed.rest}"')
                return None
            return self._called(built, parsed.rest)
        if isinstance(built, BothSides):
            return self._of_side(built, parsed, path)
        if built is None:
            if not self.document.faults:
                self.document.report(
                    path, f'"{parsed.whole}" cannot be evaluated: {parsed.base} gives no such value here'
                )
            return None
        return self._result(built, parsed.base, parsed.rest, path)

    def _of_side(self, built: BothSides, parsed: Reference, path: Steps) -> str | None:
        """The node of one side, or one output of it."""
        side, _, output = parsed.rest.partition(".")
        if side not in SIDES:
            problem = f'"{parsed.base}" has two sides; write {parsed.base}.student or {parsed.base}.teacher'
            self.document.report(path, problem + (f", each with .{parsed.rest}" if parsed.rest else ""))
            return None
        node = built.nodes.get(side)
        return None if node is None else self._result(node, f"{parsed.base}.{side}", output, path)

    def _result(self, built: str, shown: str, output: str, path: Steps) -> str | None:
        """A node that gives one value, or the named output of one that gives several."""
        op = self.graph[built].op
        gives = op.gives if op else {}
        if not isinstance(gives, Mapping):
            if output:
                self.document.report(path, f'"{shown}" gives one value; write "{shown}" without ".{output}"')
                return None
            return built
        if output not in gives:
            self.document.report(path, f'"{shown}" gives {", ".join(gives)}; write {shown}.{next(iter(gives))} or another')
            return None
        name = f"{built}.{output}"
        if name not in self.graph:
            self.graph.add(Node(name, Role.PICK, {"stage": built}, key=output))
        return name


def _own_keys(path: Steps) -> list[str]:
    """Keys that every term, node or preparation takes beside those of its op."""
    entry: type[BaseModel] = TermEntry if path[0] == "terms" else Preparation if path[0] == "prepare" else NodeEntry
    return list(entry.model_fields)


def _gives(op: Op, output: str) -> bool:
    return isinstance(op.gives, Mapping) and output in op.gives


def _declared_kind(op: Op, output: str) -> Kind | None:
    gives = op.gives.get(output) if isinstance(op.gives, Mapping) else op.gives
    return gives if isinstance(gives, Kind) else None
