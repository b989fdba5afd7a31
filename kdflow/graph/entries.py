"""What a method's entries declare: ops with their options, calls with what they replace. References are followed later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel
from torch.nn import ModuleDict

from kdflow.errors import choices
from kdflow.graph.calls import Calls
from kdflow.graph.per_level import checked_options
from kdflow.graph.rewiring import Rewiring
from kdflow.graph.sides import SIDES, Sides
from kdflow.operation import OPS, Input, Op
from kdflow.ports import BATCH_PORTS, Detector
from kdflow.spec.load import Document, Steps
from kdflow.spec.method import Method, NodeEntry, Preparation, TermEntry


@dataclass(frozen=True)
class OpEntry:
    """One op as an entry asks for it.

    Attributes:
        name: Name of its node.
        op: The operation; None where there is none of that name.
        arguments: Inputs and options as written.
        path: Place in the document.
        options: Checked options; None where they are wrong.
        sound: False after a fault was recorded; its references are looked over all the same.
        share: One set of weights for all entries of a stack.
        weights: Name under which its weights are kept.
        prepared: Its inputs are observed before training.
    """

    name: str
    op: Op | None
    arguments: Mapping[str, Any]
    path: Steps
    options: dict[str, Any] | None = None
    sound: bool = True
    share: bool = False
    weights: str = ""
    prepared: bool = False

    @property
    def inputs(self) -> Mapping[str, Input]:
        """The op's inputs, or what it observes before training."""
        if self.op is None:
            return {}
        return dict(self.op.observes) if self.prepared else self.op.inputs


@dataclass(frozen=True)
class BothSides:
    """A two-sided entry: side -> its op; a side whose values are given is not there."""

    sides: Mapping[str, OpEntry]


Entry = OpEntry | BothSides | Rewiring


class Entries:
    """Declares entries of a method, each once, when it is first asked for.

    Args:
        method: The resolved method.
        document: Receives the faults.
        detectors: Owner -> detector.
        calls: Reads the calls.
        given: Values that stand for nodes, which are then not declared.
    """

    def __init__(
        self,
        method: Method,
        document: Document,
        detectors: Mapping[str, Detector],
        calls: Calls,
        given: Mapping[str, Any],
    ) -> None:
        self.method, self.document, self.detectors = method, document, detectors
        self.calls, self.given = calls, given
        self.sides = Sides(method, document)
        self.open: list[str] = []
        self._known: dict[str, Entry | None] = {}

    def get(self, name: str) -> Entry | None:
        """The entry of this name in ``nodes:`` or ``prepare:``; None where it is at fault, which is recorded.

        An entry that is new joins ``open``: those whose references are still to be followed.
        """
        if name not in self._known:
            prepared = self.method.prepare.get(name)
            self._known[name] = self._node(name) if prepared is None else self._prepared(name, prepared)
            self.open.append(name)
        return self._known[name]

    def op(
        self,
        name: str,
        operation: str,
        arguments: Mapping[str, Any],
        path: Steps,
        *,
        share: bool = False,
        weights: str = "",
        prepared: bool = False,
    ) -> OpEntry:
        """An op with its keys checked."""
        op = self._find(operation, (*path, "loss" if path[0] == "terms" else "op"))
        entry = OpEntry(name, op, arguments, path, None, op is not None, share, weights or name, prepared)
        return entry if op is None else self._with_options(entry, op)

    def _with_options(self, entry: OpEntry, op: Op) -> OpEntry:
        before, path = len(self.document.faults), entry.path
        if op.is_module and hasattr(ModuleDict, entry.weights):
            problem = f'torch has a "{entry.weights}" of its own where weights are kept; choose another name'
            self.document.report(path, problem)
        known = [*entry.inputs, *op.options.model_fields]
        for key in entry.arguments:
            if key not in known:
                offered = [*known, *own_keys(path)]
                self.document.report((*path, key), f'{op.name} has no input or option "{key}".{choices(key, offered)}')
        written = {key: value for key, value in entry.arguments.items() if key in op.options.model_fields}
        options = checked_options(op.options, written, self.document, path)
        sound = options is not None and len(self.document.faults) == before
        return replace(entry, options=options, sound=sound)

    def _find(self, operation: str, path: Steps) -> Op | None:
        if operation in OPS:
            return OPS.get(operation)
        group = operation.split(".")[0]
        alike = [name for name in OPS if name.startswith(f"{group}.")]
        hint = f"\"kdflow ops '{group}.*'\" lists these" if alike else '"kdflow ops" lists all'
        self.document.report(path, f'no op "{operation}".{choices(operation, alike or OPS)}; {hint}')
        return None

    def _prepared(self, name: str, entry: Preparation) -> Entry | None:
        return self.op(name, entry.op, entry.arguments, ("prepare", name), prepared=True)

    def _node(self, name: str) -> Entry | None:
        entry, path, report = self.method.nodes[name], ("nodes", name), self.document.report
        if name in self.detectors or name in {port.split(".")[0] for port in BATCH_PORTS}:
            report(path, f'"{name}" is the name of a detector or batch value; choose another')
            return None
        if entry.call is not None:
            if entry.share:
                report((*path, "share"), "share: is for ops; a call's stages have the weights of their detector")
            return self.calls.rewiring(name, entry.call, entry.arguments, path)
        if entry.share and entry.op is not None and entry.op in OPS and not OPS.get(entry.op).is_module:
            report((*path, "share"), f"{entry.op} has no weights to share; leave share: out")
        return self._operation(name, entry) if entry.module is None else self._of_module(name, entry, entry.module)

    def _of_module(self, name: str, entry: NodeEntry, module: str) -> Entry | None:
        """An entry that runs an op of ``modules:``, with what the module says where the entry says nothing."""
        place: Steps = ("nodes", name, "module")
        if module not in self.method.modules:
            self.document.report(place, f'no module "{module}".{choices(module, self.method.modules)}')
            return None
        shared = self.method.modules[module]
        if shared.op is None:
            what = "a copy" if shared.source else "a part of a detector"
            self.document.report(place, f'"{module}" is {what}; write call: {module}')
            return None
        for key in ("op", *shared.arguments):
            if key not in entry.arguments:  # what the module says is wrong, if it is, where the module says it
                self.document.marks["nodes", name, key] = self.document.mark(("modules", module, key))
        arguments = {**shared.arguments, **entry.arguments}
        return self._operation(name, entry.model_copy(update={"op": shared.op}), arguments)

    def _operation(self, name: str, entry: NodeEntry, arguments: Mapping[str, Any] | None = None) -> Entry | None:
        path, operation = ("nodes", name), entry.op or ""
        arguments = entry.arguments if arguments is None else arguments
        if operation in OPS:
            before = len(self.document.faults)
            if self.sides.has_two(OPS.get(operation), arguments, path):
                return self._both(name, OPS.get(operation), arguments, entry)
            if len(self.document.faults) > before:
                return None
        share = entry.share == "levels"
        return self.op(name, operation, arguments, path, share=share, weights=entry.module or name)

    def _both(self, name: str, op: Op, arguments: Mapping[str, Any], entry: NodeEntry) -> BothSides:
        """The entry once for each side; weights of their own, unless they are those of a module."""
        sides: dict[str, OpEntry] = {}
        for side in SIDES:
            weights = entry.module or f"{name}_{side}"
            if op.is_module and entry.module is None and (weights in self.method.nodes or weights in self.method.modules):
                problem = f'the weights of "{name}" are kept as "{weights}"; give that entry another name'
                self.document.report(("nodes", name), problem)
            if any(key == f"{name}.{side}" or key.startswith(f"{name}.{side}.") for key in self.given):
                continue
            taken, share = self.sides.taken(op, arguments, side), entry.share == "levels"
            sides[side] = self.op(f"{name}.{side}", op.name, taken, ("nodes", name), share=share, weights=weights)
            if not sides[side].sound:
                break  # the other side would say the same again
        return BothSides(sides)


def own_keys(path: Steps) -> list[str]:
    """Keys that every term, node or preparation takes beside those of its op."""
    entry: type[BaseModel] = TermEntry if path[0] == "terms" else Preparation if path[0] == "prepare" else NodeEntry
    return list(entry.model_fields)
