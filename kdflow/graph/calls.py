"""Calls: stages of a detector, or copies of them, that run again with other inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch.nn import ModuleDict

from kdflow.errors import choices
from kdflow.graph.copies import CopiedStages, copy_stages
from kdflow.graph.wiring import Rewiring
from kdflow.ports import Call, Detector, Port, Stage
from kdflow.spec.load import Steps
from kdflow.spec.method import NodeEntry
from kdflow.standard_ports import standard_of

if TYPE_CHECKING:
    from kdflow.graph.build import Builder


class Calls:
    """Reads ``{call: teacher.roi, boxes: student.roi.boxes}`` and ``{call: assistant, ...}``.

    Args:
        builder: Knows method, detectors and references, and receives the faults.
    """

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self._copies: dict[str, Mapping[str, tuple[Stage, CopiedStages]]] = {}

    def rewiring(self, name: str, entry: NodeEntry, path: Steps) -> Rewiring | None:
        """What the call of a node replaces; None after recording a fault."""
        called = self._called(name, entry, path)
        if called is None:
            return None
        owner, call = called
        rewiring = Rewiring(name, owner, call)
        if self.builder.parts.declared(owner):
            rewiring.base = whole = self.builder.parts.whole(owner)
            rewiring.weights, rewiring.copies = owner, whole.copies if whole else {}
        elif entry.call in self.builder.method.modules:
            if self.is_taken(str(entry.call)):
                return None
            rewiring.weights = str(entry.call)
            rewiring.copies = self._copied(rewiring.weights, self.builder.detectors[owner], call)
        for key, value in entry.arguments.items():
            self._rewire(rewiring, key, value, (*path, key))
        return rewiring

    def given_output(self, entry: NodeEntry, output: str) -> Port | None:
        """What a given value stands for that takes the place of a call's output; None where that is no standard port."""
        owner, _, call = self._text(str(entry.call))[0].partition(".")
        for name in (f"{call}.{output}", f"{call.partition('.')[0]}.{output}", output):
            if standard_of(name) and (family := self.builder.family_of(owner)):
                return Port(name).within(family)
        return None

    def _called(self, name: str, entry: NodeEntry, path: Steps) -> tuple[str, Call] | None:
        """Owner and call."""
        text, place = self._text(str(entry.call))
        place = place or (*path, "call")
        owner, _, called = text.partition(".")
        report = self.builder.document.report
        if self.builder.parts.declared(owner) and self.builder.parts.whole(owner) is None:
            return None
        detectors = self.builder.everyone
        if owner not in detectors:
            modules = [module for module, declared in self.builder.method.modules.items() if declared.op is None]
            report(place, f'no detector "{owner}" in this run.{choices(owner, [*self.builder.detectors, *modules])}')
            return None
        calls = detectors[owner].calls
        if called not in calls:
            if not any(key.startswith(f"{name}.") for key in self.builder.given):
                known = [f"{owner}.{one}" for one in calls]
                report(place, f'{detectors[owner].name} has no call "{called}".{choices(text, known)}')
            return None
        return owner, calls[called]

    def _text(self, call: str) -> tuple[str, Steps]:
        """OWNER.CALL that a call stands for, and where a module says so."""
        module = self.builder.method.modules.get(call)
        if self.builder.parts.declared(call):
            return f"{call}.{self.builder.parts.call(call)}", ("modules", call, "build", "part")
        return (call, ()) if module is None or module.source is None else (module.source, ("modules", call, "copy"))

    def is_taken(self, module: str) -> bool:
        """True after recording that weights cannot be kept under this name."""
        node = self.builder.method.nodes.get(module)
        if hasattr(ModuleDict, module):
            problem = f'torch has a "{module}" of its own where weights are kept; choose another name'
        elif node is not None and node.op is not None:
            problem = f'nodes have a "{module}" as well, and weights are kept by name; choose another name'
        else:
            return False
        self.builder.document.report(("modules", module), problem)
        return True

    def _copied(self, module: str, detector: Detector, call: Call) -> Mapping[str, tuple[Stage, CopiedStages]]:
        """The stages of a copy, made when it is called first."""
        if module not in self._copies:
            self._copies[module] = copy_stages(detector, call, self.builder.method.modules[module].trainable)
        return self._copies[module]

    def _rewire(self, rewiring: Rewiring, key: str, value: Any, path: Steps) -> None:
        call = rewiring.call
        if key in call.inputs:
            if (node := self.builder.reference(value, path)) is None:
                return
            target = call.inputs[key]
            node = self.builder.wiring.in_their_classes(rewiring.owner, target, node)
            if ":" in target:
                stage, _, argument = target.partition(":")
                rewiring.arguments[stage, argument] = node
            else:
                rewiring.ports[target] = node
        elif key in call.options:
            rewiring.options.setdefault(call.options[key], {})[key] = value
        else:
            known = [*call.inputs, *call.options]
            self.builder.document.report(path, f'this call has no input or option "{key}".{choices(key, known)}')
