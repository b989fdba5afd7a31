"""Infer shapes: the whole graph runs once on fake tensors, which checks shapes, sizes the adapters and costs no data.

Stages whose output sizes depend on data declare their outputs (``Stage.infer``).
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kdflow.graph.node import Graph, Node, Role
from kdflow.graph.passes.fakes import Fakes
from kdflow.graph.passes.kinds import kind_of_value, place_kinds
from kdflow.graph.passes.norms import lonely_norms
from kdflow.graph.passes.promise import broken_promise
from kdflow.graph.passes.rows import boxes_of, give_boxes
from kdflow.graph.per_level import at_level, lengths_of
from kdflow.graph.runtime import FunctionOp, OpCall, Prepared, StageCall, Streams, stream_key
from kdflow.graph.term_call import TermCall
from kdflow.kinds import ANY
from kdflow.ports import BATCH_PORTS, Detector
from kdflow.spec.load import Document

_UNLIKE = re.compile(r"broadcast|must match|expanded size")
"""How torch words that shapes do not meet."""


class Flops(FlopCounterMode):
    """torch's counter without its watch over modules, whose hooks ask for gradients."""

    def __init__(self) -> None:
        super().__init__(display=False)
        self.mod_tracker: Any = _NoModules()


class _NoModules(contextlib.nullcontext[None]):
    parents = frozenset({"Global"})


class Inference:
    """One walk over a graph on fake tensors.

    Args:
        graph: Graph after name resolution; values and modules are filled in.
        document: Receives the faults.
        detectors: Owner -> detector.
        example: Batch values (``images`` ...) of the shapes that training will see.
        seed: Seed of the adapters' initial weights.
        streams: Random streams handed to stochastic nodes.
        count_flops: Also count each stage's floating-point operations into ``flops`` (node name -> number).
        fakes: Fake detectors of earlier graphs; none makes new ones.
    """

    def __init__(
        self,
        graph: Graph,
        document: Document,
        detectors: Mapping[str, Detector],
        example: Mapping[str, Any],
        *,
        seed: int,
        streams: Streams,
        count_flops: bool = False,
        fakes: Fakes | None = None,
    ) -> None:
        self.graph, self.document, self.detectors = graph, document, detectors
        self.seed, self.streams = seed, streams
        self.fakes = fakes or Fakes()
        self.example = self.fakes.batch(example)
        self.flops: dict[str, int] | None = {} if count_flops else None
        self.parts: dict[str, list[nn.Module]] = {}
        self.broken: set[str] = set()

    def run(self) -> Graph:
        """Infer every node; nodes behind a faulty one are left out of the judgement."""
        for node in self.graph.ordered():
            if any(operand in self.broken for operand in node.operands()) or not place_kinds(
                self.graph, node, self.document
            ):
                self.broken.add(node.name)
                continue
            before = len(self.document.faults)
            node.value.fake = self._evaluate(node)
            node.value.boxes = boxes_of(self.graph, node)
            if len(self.document.faults) > before:
                self.broken.add(node.name)
            elif node.role is Role.PICK and node.value.strides:
                node.value.strides = self._strides(node)
            elif node.value.kind is ANY and node.role in (Role.PICK, Role.INPUT):
                node.value.kind = kind_of_value(node.value.fake)
        return self.graph

    def _evaluate(self, node: Node) -> Any:
        if node.role is Role.INPUT:
            return self.example[node.name] if node.given is None else self.fakes.value(node.given)
        if node.role is Role.PICK:
            return self._operand(node.inputs["stage"])[node.key]
        if node.role is Role.SLICE:
            return self._slice(node)
        if node.role is Role.STAGE:
            return self._stage(node)
        return self._op(node) if node.role is Role.OP else self._term(node)

    def _operand(self, operand: Any) -> Any:
        if isinstance(operand, tuple):
            return [self.graph[name].value.fake for name in operand]
        return self.graph[operand].value.fake

    def _inputs(self, node: Node) -> dict[str, Any]:
        return {name: self._operand(operand) for name, operand in node.inputs.items()}

    def _slice(self, node: Node) -> Any:
        stack = self._operand(node.inputs["stack"])
        length = len(stack)
        if isinstance(node.key, int):
            wrong = not -length <= node.key < length
        else:
            bounds = [b for b in (node.key.start, node.key.stop) if b is not None]
            wrong = any(abs(b) > length for b in bounds) or not stack[node.key]
        if wrong:
            self.document.report(node.path, f"{node.name}: there are {length} entries, 0 to {length - 1}")
            return None
        return stack[node.key]

    def _strides(self, node: Node) -> tuple[int, ...]:
        """Strides of a port; measured where the stage sees a copy of the images of another size (a method's, or its own)."""
        maps, height = node.value.fake, int(self.example["images"].shape[-2])
        rows = [int(m.shape[-2]) for m in maps if m.dim() == 4] if isinstance(maps, list) else []
        resized = any(self.graph[n].role is Role.OP for n in self.graph.upstream(node.name))
        if not resized and all(abs(height / stride - r) < 1 for stride, r in zip(node.value.strides, rows)):
            return node.value.strides
        whole = len(rows) == len(node.value.strides) and all(r and height % r == 0 for r in rows)
        return tuple(height // r for r in rows) if whole else node.value.strides

    # stages

    def _stage(self, node: Node) -> Any:
        if node.run is None:
            raise AssertionError(f"stage node without a stage: {node.name}")
        fake = self.fakes.stages(self.detectors[node.owner])[node.stage]
        if node.run.selective:
            node.options["wanted"] = self.graph.taken(node.name)
        node.module = StageCall(node.name, node.run.run, node.options, self.streams if node.stochastic else None)
        inputs = self._inputs(node)
        try:
            with self.fakes.active(), torch.no_grad():
                result, node.lonely_norms = self.fakes.remembered(node, inputs, lambda: self._watched(node, fake, inputs))
                return result
        except Exception as error:
            self.document.report(self._blame(node), f"{node.name} cannot run on these inputs: {_first_line(error)}")
            return None

    def _watched(self, node: Node, fake: nn.Module, inputs: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
        with lonely_norms(fake, len(self.example["images"])) as lonely:
            return self._trial(node, fake, inputs), tuple(lonely)

    def _trial(self, node: Node, fake: nn.Module, inputs: dict[str, Any]) -> Any:
        """What a stage gives for fake inputs, by its rule or by its copy."""
        if node.run is None:
            raise AssertionError(node.name)
        taps = _same_modules(node.run.run, fake, node.options.get("taps", {}))
        inferred: dict[str, Any] = {}
        rule = getattr(fake, "infer", None)
        if rule is not None:
            inferred = rule(**inputs, **{k: v for k, v in node.options.items() if k != "taps"})
            if not taps:
                self._count_ruled(node.name, StageCall(node.name, fake, {**node.options, "taps": {}}, None), inputs)
                return inferred
        run = self._count(node.name, StageCall(node.name, fake, {**node.options, "taps": taps}, None), inputs)
        return {**run, **inferred}

    def _count(self, name: str, stage: StageCall, inputs: dict[str, Any]) -> Any:
        if self.flops is None:
            return stage(**inputs)
        with Flops() as counter:
            result = stage(**inputs)
        self.flops[name] = counter.get_total_flops()
        return result

    def _count_ruled(self, name: str, stage: StageCall, inputs: dict[str, Any]) -> None:
        """Count a stage whose outputs are declared: all of it, or up to where it begins to choose by values (boxes to keep)."""
        if self.flops is None:
            return
        with Flops() as counter, contextlib.suppress(Exception):
            stage(**inputs)
        self.flops[name] = counter.get_total_flops()

    def _blame(self, node: Node) -> Any:
        """Line of the call that rewired this stage, where one did."""
        name = node.name.split(":")[0]
        return ("nodes", name) if ("nodes", name) in self.document.marks else ()

    # ops

    def _op(self, node: Node) -> Any:
        if node.op is None or not self._lengths(node) or not self._numbers_fit(node) or not self._comparable(node):
            return None
        try:
            parts = [Prepared(p) for p in self._parts(node)] if node.prepared else self._parts(node)
            no_grad, exact = node.op.no_grad, node.op.name.startswith("loss.")
            canvas = [k for k, meta in node.op.metas.items() if meta == "canvas" and k in node.inputs]
            streams = self.streams if node.stochastic else None
            lifted = () if node.prepared else node.lifted
            node.module = OpCall(node.name, parts, lifted, canvas, no_grad=no_grad, exact=exact, streams=streams)
            with self.fakes.active():
                infer = node.op.infer
                stand_ins = [FunctionOp(infer, getattr(p, "options", {})) if infer else self.fakes.module(p) for p in parts]
                trial = OpCall(node.name, stand_ins, lifted, canvas, no_grad=no_grad, exact=exact)
                inputs = {} if node.prepared else self._inputs(node)
                with lonely_norms(trial, len(self.example["images"])) as lonely:
                    result = trial(**inputs)
                node.lonely_norms = tuple(lonely)
        except Exception as error:
            if str(error).startswith("zip() ") and not self._equally_long(node, self._stacks(node)):
                return None
            if _UNLIKE.search(str(error)) and (words := self._unequal_widths(node)):
                self.document.report(node.path, words)
                return None
            shapes = ", ".join(f"{name} is {show(self._operand(o))}" for name, o in node.inputs.items())
            self.document.report(node.path, f"{node.op.name} cannot take these values ({shapes}): {_first_line(error)}")
            return None
        if problem := broken_promise(node, result, inputs):
            words = f"{node.op.name} does not keep its declaration: {problem}; correct gives= or the function"
            self.document.report(node.path, words)
        return result

    def _unequal_widths(self, node: Node) -> str:
        """Which two inputs have unlike channels, and the next move; empty where none have."""
        single = [(name, self.graph[operand]) for name, operand in node.inputs.items() if isinstance(operand, str)]
        wide = [(name, one, _width(one)) for name, one in single if _width(one)]
        for (name, one, width), (other, two, wanted) in itertools.combinations(wide, 2):
            if width != wanted:
                return (
                    f"{name} ({one.name}) has {width} channels, {other} ({two.name}) has {wanted}, and "
                    f"{node.op.name if node.op else node.name} takes equal ones; {_remedy(one, two)}"
                )
        return ""

    def _axes(self, node: Node) -> tuple[str, ...]:
        """Axis names of one entry of the node's first input; empty where they are not known."""
        first = next(node.operands())
        return self.graph[first].value.kind.element().axes or ()

    def _parts(self, node: Node) -> list[nn.Module]:
        """The op's modules: built once per name, sized from the inputs, seeded by (seed, name)."""
        op = node.op
        if op is None:
            raise AssertionError(node.name)
        options = dict(node.options)
        if "strides" in op.metas.values():
            options |= {k: node.value.strides for k, meta in op.metas.items() if meta == "strides"}
        if "axes" in op.metas.values():
            options |= {k: self._axes(node) for k, meta in op.metas.items() if meta == "axes"}
        if not op.is_module:
            counts = lengths_of(options).values()
            return [FunctionOp(op.target, at_level(options, i)) for i in range(max(counts, default=1))]
        if node.weights in self.parts:
            return self.parts[node.weights]
        inputs = self._inputs(node)
        count = len(inputs[node.lifted[0]]) if node.lifted and not node.share else 1
        built = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_key(self.seed, 0, f"init/{node.weights}"))
            for i in range(count):
                module = op.target(**at_level(options, i))
                if hasattr(module, "build"):
                    module.build(**{k: (v[i] if k in node.lifted else v) for k, v in inputs.items()})
                built.append(module)
        self.parts[node.weights] = built
        return built

    def _lengths(self, node: Node) -> bool:
        """Stacks that are walked in step must be equally long."""
        return self._equally_long(node, node.lifted)

    def _stacks(self, node: Node) -> list[str]:
        """Inputs that are stacks of levels or layers, which an op of many inputs may pair by itself."""
        single = {name: operand for name, operand in node.inputs.items() if isinstance(operand, str)}
        return [name for name, operand in single.items() if self.graph[operand].value.kind.stack]

    def _equally_long(self, node: Node, names: Iterable[str]) -> bool:
        lengths = {str(node.inputs[name]): len(self._operand(node.inputs[name])) for name in names}
        if len(set(lengths.values())) <= 1:
            return True
        words = ", ".join(f"{name} has {count}" for name, count in lengths.items())
        shortest = min(lengths.values())
        self.document.report(node.path, f"the stacks differ in length: {words}; choose entries with [0:{shortest}]")
        return False

    def _numbers_fit(self, node: Node) -> bool:
        """Options that are given per level have as many entries as the stack that the op is mapped over."""
        before = len(self.document.faults)
        stack = len(self._operand(node.inputs[node.lifted[0]])) if node.lifted and not node.prepared else 0
        for key, count in lengths_of(node.options).items():
            if not stack or node.lift == "images":
                problem = "a list holds one number per level or layer, and there are none here; give one number"
            elif node.share:
                problem = "share: levels makes one set of weights for all levels; give one number"
            elif count != stack:
                problem = f"{count} numbers for {stack} {node.lift}; give one for each, or one for all"
            else:
                continue
            self.document.report((*node.path, key), problem)
        return len(self.document.faults) == before

    def _comparable(self, node: Node) -> bool:
        """Student and teacher of a loss have one meaning and one shape; nothing broadcasts."""
        if node.op is None or not node.op.name.startswith("loss.") or not {"student", "teacher"} <= set(node.inputs):
            return True
        student, teacher = (self.graph[str(node.inputs[side])] for side in ("student", "teacher"))
        if student.value.form and teacher.value.form and student.value.form != teacher.value.form:
            self.document.report(
                node.path,
                f"{student.name} holds {student.value.form} values, {teacher.name} {teacher.value.form}; convert one of them",
            )
            return False
        shapes = show(student.value.fake), show(teacher.value.fake)
        if shapes[0] == shapes[1]:
            return True
        self.document.report(node.path, f"student is {shapes[0]}, teacher is {shapes[1]}; {_remedy(student, teacher)}")
        return False

    # terms

    def _term(self, node: Node) -> Any:
        if node.term is None:
            raise AssertionError(node.name)
        kinds = {
            key: [self.graph[o].value.kind for o in node.inputs.get(key, ())] for key in ("factors", "rows", "over")
        }
        if not give_boxes(self.graph, node, self.document) or not self._join_fits(node):
            return None
        student = node.inputs.get("student")
        node.module = TermCall(
            node.name,
            node.term.reduce,
            self.graph[str(node.inputs["value"])].value.kind,
            self.graph[str(student)].value.kind if student else None,
            kinds["factors"],
            kinds["rows"],
            kinds["over"],
        )
        try:
            with self.fakes.active():
                return node.module(**self._inputs(node))
        except Exception as error:
            self.document.report(
                node.path,
                f"this reduction does not fit {show(self._operand(node.inputs['value']))}: {_first_line(error)}",
            )
            return None

    def _join_fits(self, node: Node) -> bool:
        """Weights of a stack's entries are as many as the entries."""
        value, levels = self.graph[str(node.inputs["value"])].value, node.term.reduce.levels if node.term else None
        if levels is None or isinstance(levels, str):
            return True
        if value.kind.stack is None or value.kind.opaque:
            problem = "weights are given per level or layer, and there are none here; write weight: NUMBER"
        elif len(levels) != len(value.fake):
            problem = f"{len(levels)} weights for {len(value.fake)} {value.kind.stack}; give one for each"
        else:
            return True
        self.document.report((*node.path, "reduce", "levels"), problem)
        return False


def show(value: Any) -> str:
    """Shape of a value in words: ``(2, 64, 16, 16)``, ``4 x (...)``."""
    if isinstance(value, Tensor):
        return f"({', '.join(str(int(s)) for s in value.shape)})"
    if isinstance(value, (list, tuple)) and value:
        shapes = [show(v) for v in value]
        return f"{len(shapes)} x {shapes[0]}" if len(set(shapes)) == 1 else f"[{', '.join(shapes)}]"
    return type(value).__name__


def _remedy(student: Node, teacher: Node) -> str:
    one, other = (_channels(n.value.fake) for n in (student, teacher))
    if one != other:
        return f"put {{op: adapter.conv, features: {student.name}, like: {teacher.name}}} between them"
    return "bring them to one size with transform.resize, or choose levels of equal stride with [a:b]"


def _channels(value: Any) -> Any:
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    return first.shape[1] if isinstance(first, Tensor) and first.dim() > 1 else None


def _width(node: Node) -> int:
    """Channels of a value, or of a stack's first entry; 0 where it has none."""
    axes, value = node.value.kind.element().axes or (), node.value.fake
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    fits = isinstance(first, Tensor) and "c" in axes and first.dim() == len(axes)
    return int(first.shape[axes.index("c")]) if fits else 0


def _same_modules(original: nn.Module, fake: nn.Module, taps: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The tapped modules' copies inside the fake copy of a stage."""
    pairs = dict(zip(map(id, original.modules()), fake.modules()))
    return {path: pairs[id(module)] for path, module in taps.items()}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def example_batch(height: int, width: int, images: int = 2, boxes: int = 2) -> dict[str, Any]:
    """Batch values of the right shapes, without data."""
    corner = torch.tensor([[2.0, 2.0, width / 2, height / 2]]).repeat(boxes, 1)
    values = {
        "images": torch.zeros(images, 3, height, width, device="meta"),  # large ones would take gigabytes
        "image_sizes": [(height, width)] * images,
        "targets.boxes": [corner.clone() for _ in range(images)],
        "targets.labels": [torch.zeros(boxes, dtype=torch.int64) for _ in range(images)],
    }
    if set(values) != set(BATCH_PORTS):
        raise AssertionError("the example batch must offer every batch value")
    return values
