"""Resolve names: from a method and its detectors to a graph. All of a spec's mistakes are collected and show at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdflow.errors import choices
from kdflow.graph.node import Graph, Node, Operand, Role, Value
from kdflow.graph.terms import add_terms
from kdflow.graph.wiring import Rewiring, Wiring
from kdflow.kinds import ANY, Kind
from kdflow.operation import OPS, Op
from kdflow.ports import BATCH_PORTS, STANDARD_PORTS, Detector, PortSpec
from kdflow.spec.faults import validate
from kdflow.spec.load import Document, Steps
from kdflow.spec.method import Method, NodeEntry, Preparation
from kdflow.spec.reference import Reference, parse_reference


class Builder:
    """Builds the graph of one method on the detectors of one bench.

    Args:
        method: The resolved method.
        document: Where its lines stand; receives the faults.
        detectors: Owner (``student``, ``teacher``, ...) -> detector.
        given: Reference -> value, for evaluations on given values: the graph is cut at these places.
    """

    def __init__(
        self,
        method: Method,
        document: Document,
        detectors: Mapping[str, Detector],
        given: Mapping[str, Any] | None = None,
    ) -> None:
        self.method = method
        self.document = document
        self.detectors = detectors
        self.given = dict(given or {})
        self.graph = Graph()
        self.wiring = Wiring(self.graph, detectors, self.given, self._source)
        self._built: dict[str, str | Rewiring | None] = {}
        self._building: list[str] = []

    def build(self) -> Graph:
        """The whole graph: the student's own wiring and losses, then the method's nodes and terms."""
        for owner, detector in self.detectors.items():
            for stage in detector.stages if owner == "student" and not self.given else ():
                self.wiring.stage(owner, stage, None)
        for name in [*self.method.prepare, *self.method.nodes]:
            if name not in self.given:
                self._node(name)
        add_terms(self)
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
        detector = self.detectors.get(parsed.base)
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
        if text in BATCH_PORTS:
            return self._input(text, BATCH_PORTS[text])
        if parsed.base in self.method.nodes or parsed.base in self.method.prepare:
            return self._output(parsed, path)
        known = [*self.detectors, *self.method.nodes, *self.method.prepare, *BATCH_PORTS]
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

    def _given_port(self, text: str) -> PortSpec | None:
        """What a given value stands for: a port of an owner, an output of a call, or a node's result."""
        base, _, rest = text.partition(".")
        if base in self.detectors:
            return self.detectors[base].ports.get(rest)
        entry = self.method.nodes.get(base) or self.method.prepare.get(base)
        if isinstance(entry, NodeEntry) and entry.call is not None:
            owner, _, call = entry.call.partition(".")
            for name in (f"{call}.{rest}", rest):
                if name in STANDARD_PORTS and owner in self.detectors:
                    standard = STANDARD_PORTS[name]
                    node = standard.node[1 if self.detectors[owner].family == "transformer" else 0]
                    return PortSpec(standard.kind, "", rest, node=node)
        if entry is not None and entry.op is not None and entry.op in OPS:
            kind = _declared_kind(OPS.get(entry.op), rest)
            return PortSpec(kind, "", rest) if kind else None
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

    def _called(self, rewiring: Rewiring, port: str) -> str:
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

    def _node(self, name: str) -> str | Rewiring | None:
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

    def _declared(self, name: str, entry: NodeEntry) -> str | Rewiring | None:
        path: Steps = ("nodes", name)
        if name in self.detectors or name in {port.split(".")[0] for port in BATCH_PORTS}:
            self.document.report(path, f'"{name}" is the name of a detector or batch value; choose another')
            return None
        if entry.call is not None:
            return self._call(name, entry, path)
        options, operation, weights = dict(entry.arguments), entry.op, name
        if entry.module is not None:
            if entry.module not in self.method.modules:
                self.document.report(
                    (*path, "module"), f'no module "{entry.module}".{choices(entry.module, self.method.modules)}'
                )
                return None
            shared = self.method.modules[entry.module]
            options, operation, weights = {**shared.arguments, **options}, shared.op, entry.module
        return self.op(name, operation or "", options, path, share=entry.share == "levels", weights=weights)

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
            return None
        before, broken = len(self.document.faults), False
        call_inputs = dict(op.observes) if prepared else op.inputs
        known = [*call_inputs, *op.options.model_fields]
        for key in arguments:
            if key not in known:
                self.document.report((*path, key), f'{op.name} has no input or option "{key}".{choices(key, known)}')
        options = validate(
            op.options, {k: v for k, v in arguments.items() if k in op.options.model_fields}, self.document, path
        )
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
                {k: getattr(options, k) for k in op.options.model_fields},
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

    def _find_op(self, operation: str, path: Steps) -> Op | None:
        if operation in OPS:
            return OPS.get(operation)
        group = operation.split(".")[0]
        alike = [name for name in OPS if name.startswith(f"{group}.")]
        hint = f"\"kdflow ops '{group}.*'\" lists these" if alike else '"kdflow ops" lists all'
        self.document.report(path, f'no op "{operation}".{choices(operation, alike or OPS)}; {hint}')
        return None

    def _call(self, name: str, entry: NodeEntry, path: Steps) -> Rewiring | None:
        owner, _, called = str(entry.call).partition(".")
        if owner not in self.detectors:
            self.document.report((*path, "call"), f'no detector "{owner}" in this run.{choices(owner, self.detectors)}')
            return None
        detector = self.detectors[owner]
        if called not in detector.calls:
            if any(key.startswith(f"{name}.") for key in self.given):
                return None
            known = [f"{owner}.{c}" for c in detector.calls]
            self.document.report(
                (*path, "call"), f'{detector.name} has no call "{called}".{choices(f"{owner}.{called}", known)}'
            )
            return None
        call = detector.calls[called]
        rewiring = Rewiring(name, owner, call)
        for key, value in entry.arguments.items():
            self._rewire(rewiring, key, value, (*path, key))
        return rewiring

    def _rewire(self, rewiring: Rewiring, key: str, value: Any, path: Steps) -> None:
        call = rewiring.call
        if key in call.options:
            rewiring.options.setdefault(call.options[key], {})[key] = value
        elif key in call.inputs:
            if (node := self.reference(value, path)) is None:
                return
            target = call.inputs[key]
            if ":" in target:
                stage, _, argument = target.partition(":")
                rewiring.arguments[stage, argument] = node
            else:
                rewiring.ports[target] = node
        else:
            self.document.report(
                path, f'this call has no input or option "{key}".{choices(key, [*call.inputs, *call.options])}'
            )

    def _output(self, parsed: Reference, path: Steps) -> str | None:
        """A node of the method, or one output of it."""
        built = self._node(parsed.base)
        if isinstance(built, Rewiring):
            outputs = built.call.outputs
            if not parsed.rest and len(outputs) == 1:
                return self._called(built, next(iter(outputs.values())))
            if parsed.rest not in outputs:
                self.document.report(path, f'the call "{parsed.base}" gives {", ".join(outputs)}, not "{parsed.rest}"')
                return None
            return self._called(built, outputs[parsed.rest])
        if built is None:
            if not self.document.faults:
                self.document.report(
                    path, f'"{parsed.whole}" cannot be evaluated: {parsed.base} gives no such value here'
                )
            return None
        op = self.graph[built].op
        gives = op.gives if op else {}
        if isinstance(gives, Mapping):
            return self._named_output(built, parsed, gives, path)
        if parsed.rest:
            self.document.report(
                path, f'"{parsed.base}" gives one value; write "{parsed.base}" without ".{parsed.rest}"'
            )
            return None
        return built

    def _named_output(self, built: str, parsed: Reference, gives: Mapping[str, Any], path: Steps) -> str | None:
        if parsed.rest not in gives:
            self.document.report(
                path, f'"{parsed.base}" gives {", ".join(gives)}; write {parsed.base}.{next(iter(gives))} or another'
            )
            return None
        name = f"{built}.{parsed.rest}"
        if name not in self.graph:
            self.graph.add(Node(name, Role.PICK, {"stage": built}, key=parsed.rest))
        return name


def _declared_kind(op: Op, output: str) -> Kind | None:
    gives = op.gives.get(output) if isinstance(op.gives, Mapping) else op.gives
    return gives if isinstance(gives, Kind) else None
