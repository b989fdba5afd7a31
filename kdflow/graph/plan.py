"""The plan: method and detectors in executable form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from kdflow.errors import UsageError
from kdflow.graph.dense import Backend, compile_dense
from kdflow.graph.early import Early
from kdflow.graph.inherit import inherit
from kdflow.graph.lower import lower
from kdflow.graph.node import Graph, Role
from kdflow.graph.predict import predictions, rewired
from kdflow.graph.program import add_programs
from kdflow.graph.recompute import recompute_blocks
from kdflow.graph.rewire import DETECTIONS
from kdflow.graph.runtime import Prepared, Streams
from kdflow.graph.walk import evaluate
from kdflow.ports import BATCH_PORTS, Batch, Detector
from kdflow.spec.balance import Control
from kdflow.spec.method import Method, Phase
from kdflow.spec.schedule import Progress, Schedule


@dataclass(frozen=True)
class TermInfo:
    """One summand of the training loss.

    Attributes:
        name: ``det/<loss>`` or ``kd/<term>``.
        nodes: Taxonomy nodes, the first one primary; empty for the detector's own losses.
        weight: Weight before schedules, negative for a term with ``sign: minus``.
        schedule: Factor over time.
        auxiliary: It trains modules of the method alone, so no gradient of it has to reach the student.
        share: Its share of the gradient, by which the weight is set when the run begins; None where the weight is a number.
        control: How the weight follows the gradient during training.
    """

    name: str
    nodes: tuple[str, ...]
    weight: float
    schedule: Schedule = field(default_factory=Schedule)
    auxiliary: bool = False
    share: float | None = None
    control: Control | None = None

    @property
    def strength(self) -> str:
        """What the spec says of its weight: ``6``, ``share 0.5``, ``5, keeps share 0.1``."""
        start = f"{self.weight:g}" if self.share is None else f"share {self.share:g}"
        return start if self.control is None else f"{start}, keeps share {self.control.share:g}"

    @property
    def is_distillation(self) -> bool:
        """True for terms of the method."""
        return self.name.startswith("kd/")


@dataclass
class Outcome:
    """Result of one step.

    Attributes:
        total: Weighted sum; the tensor to call ``backward`` on.
        raw: Term -> unscheduled, unweighted scalar.
        weighted: Term -> its share of the total.
    """

    total: Tensor
    raw: dict[str, Tensor]
    weighted: dict[str, Tensor]
    alive: dict[str, Tensor] = field(default_factory=dict)

    @property
    def empty(self) -> frozenset[str]:
        """Distillation terms that had nothing to judge in this batch (no boxes, no positives). Waits for the device."""
        return frozenset(name for name, alive in self.alive.items() if not bool(alive))


@dataclass(frozen=True)
class PlanReport:
    """What the compiler decided.

    Attributes:
        teacher_stages_run: Stages of teachers that run, as ``teacher.neck``.
        teacher_stages_pruned: Stages that no term needs, so that they never run.
        adapters: Op with weights -> number of parameters.
        frozen: Parameters of the student that no loss reaches, frozen for that reason.
        rewires: Taxonomy nodes of stages that run on other inputs than in plain inference.
        remarks: What a method leaves to a default that others would choose otherwise, in words.
    """

    teacher_stages_run: tuple[str, ...] = ()
    teacher_stages_pruned: tuple[str, ...] = ()
    adapters: Mapping[str, int] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    rewires: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


class Plan(nn.Module):
    """One module: batch in, named terms out.

    The student and the op weights are its parameters and its state. Teachers are hidden from both (and so from optimizers,
    checkpoints and DDP), always in eval mode and frozen; only a teacher that some phase trains is a part of both, and learns
    in that phase alone. It is rebuilt from the spec, never pickled.

    Attributes:
        learners: Teachers that some phase trains, by owner.
        weights: Weight of each term before its schedule, as declared until someone changes it (calibration, controllers).
        lr_drop: The step at which the learning rate drops, for the schedules that ask.
    """

    student: nn.Module
    ops: nn.ModuleDict

    def __init__(
        self,
        method: Method,
        graph: Graph,
        detectors: Mapping[str, Detector],
        terms: Sequence[TermInfo],
        streams: Streams,
        report: PlanReport,
    ) -> None:
        super().__init__()
        self.method, self.graph, self.terms, self.report = method, graph, tuple(terms), report
        self.detectors = dict(detectors)
        self.streams = streams
        self.phase = ""
        if "student" in detectors:
            self.student = detectors["student"].model
        names = [t.name for t in terms]
        kept = [*names, *(n.name for n in graph.ordered() if n.prepared), *predictions(method, graph)]
        self.ops = nn.ModuleDict(op_weights(graph.needed_by(kept)))
        self._hidden = [d for owner, d in detectors.items() if owner != "student"]
        self.learners = {owner: model for owner, model in self.teachers.items() if any(p.names(owner) for p in method.phases)}
        for owner, model in self.learners.items():
            self.add_module(owner, model)
        self._learnable = [p for model in self.learners.values() for p in model.parameters() if p.requires_grad]
        self._runs = bool(names) and _complete(graph, names)
        self._lowered: dict[str, GraphModule] = {}
        self._cut: tuple[str, ...] = ()
        self.weights: dict[str, float] = {t.name: t.weight for t in terms}
        self.lr_drop = math.inf
        self._weights: dict[str, Tensor] = {t.name: torch.tensor(t.weight) for t in terms}
        self._factors: dict[str, float] = {}
        for name in detectors["student"].optional if "student" in detectors else ():
            self.student.get_parameter(name).requires_grad_(name not in report.frozen)
        for detector in self._hidden:
            for parameter in detector.model.parameters():
                parameter.requires_grad_(False)
        self.train(True)

    def _repr_svg_(self) -> str:
        """The drawing of ``kdflow explain``, in a notebook."""
        return self.graph._repr_svg_()

    @property
    def seed(self) -> int | None:
        """Seed of the random streams."""
        return self.streams.seed

    @property
    def teachers(self) -> dict[str, nn.Module]:
        """Teacher models by owner."""
        return {owner: d.model for owner, d in self.detectors.items() if owner != "student"}

    @property
    def code(self) -> str:
        """The generated step of the present phase, as Python source."""
        return str(self._step().code) if self._runs else ""

    def forward(self, batch: Batch) -> Outcome:
        """Run student, teachers (as far as needed) and terms on one batch."""
        if not self._runs:
            raise RuntimeError("this plan was compiled for given values; call evaluate(values)")
        values = batch.values()
        results = self._step()(*[values[name] for name in (*BATCH_PORTS, *self._cut)])
        raw = {name: value for name, (value, _) in results.items()}
        weighted = self.weigh(raw)
        alive = {name: alive for name, (_, alive) in results.items() if name.startswith("kd/")}
        return Outcome(torch.stack(list(weighted.values())).sum(), raw, weighted, alive)

    def cut(self, names: Sequence[str]) -> None:
        """From now on take the values of these nodes from the batch (:class:`kdflow.graph.early.FedBatch`); none computes all."""
        self._cut, self._lowered = tuple(names), {}

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, everything is computed here, wherever the plan is cut."""
        cut = self._cut
        self.cut(())
        try:
            yield
        finally:
            self.cut(cut)

    def ahead(self) -> Early:
        """What of the present phase's step may run before the student's: from now on it is taken from batches of this."""
        self.cut(())
        early = Early(self.graph.needed_by(self.active), lambda node: node.owner != "student" and not self.moves(node.module))
        self.cut(early.cut)
        return early

    def moves(self, module: nn.Module) -> bool:
        """True where training changes a stage: it holds parameters of the plan, or such as require gradient."""
        own = {id(parameter) for parameter in self.parameters()}
        return any(parameter.requires_grad or id(parameter) in own for parameter in module.parameters())

    def _step(self) -> GraphModule:
        """The executable step of the present phase: what none of its terms needs does not run."""
        if self.phase not in self._lowered:
            step = self.graph.cut_at(self._cut).needed_by(self.active)
            self._lowered[self.phase] = lower(step, self.active, (*BATCH_PORTS, *self._cut))
        return self._lowered[self.phase]

    @property
    def active(self) -> list[str]:
        """Names of the terms of the present phase."""
        phase = self._declared_phase
        return [term.name for term in self.terms if phase is None or phase.counts(term.name)]

    @property
    def _declared_phase(self) -> Phase | None:
        return next((p for p in self.method.phases if p.name == self.phase), None)

    def weigh(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Terms times their weight and schedule at the current step."""
        return {name: value * self._weight(name, value) for name, value in raw.items()}

    def _weight(self, name: str, value: Tensor) -> Tensor:
        weight = self._weights[name]
        if weight.device != value.device:
            weight = self._weights[name] = weight.to(value.device)
        return weight

    def advance(self, step: int, total_steps: int, steps_per_epoch: int, part: int = 0) -> None:
        """Set the weights and the random streams of this step; weights are tensors, so nothing is ever recompiled.

        Args:
            step: Optimizer steps done.
            total_steps: Length of the run.
            steps_per_epoch: For schedules by epoch.
            part: Tells apart the passes of one step (accumulated batches, ranks), which draw different numbers.
        """
        self.streams.step, self.streams.part = step, part
        progress = Progress(step, total_steps, steps_per_epoch, self.lr_drop)
        phase = self._declared_phase
        for term in self.terms:
            active = phase is None or phase.counts(term.name)
            self._factors[term.name] = term.schedule.factor(progress) if active else 0.0
            self._weights[term.name].fill_(self.weights[term.name] * self._factors[term.name])

    @property
    def resting(self) -> frozenset[str]:
        """Terms that count nothing at the present step, by schedule or phase."""
        return frozenset(name for name, factor in self._factors.items() if factor == 0)

    def copy_weights(self) -> None:
        """Give every copied stage the weights that its detector has now; called before training, after weights were loaded.

        Parts that were built keep their random ones.
        """
        for node in self.graph.of_role(Role.STAGE):
            if node.copied is not None and node.run is not None and node.owner in self.detectors:
                own = self.detectors[node.owner].stages[node.stage].run
                node.run.run.load_state_dict(own.state_dict())

    def enter(self, phase: str) -> None:
        """Go on in the phase of this name: its terms count from the next :meth:`advance` on; an unknown name means all terms."""
        self.phase = phase

    def begin(self, phase: str) -> bool:
        """Let the student take over what the phase's ``init:`` says, once, when it begins; True where it says anything."""
        rules = next((p.init for p in self.method.phases if p.name == phase), ())
        return bool(inherit(rules, self.detectors))

    def thaw(self) -> tuple[nn.Module, ...]:
        """Let the teachers that some phase trains require gradient, as far as their library does; returns their models.

        Whoever trains the plan then freezes what the present phase does not train.
        """
        for parameter in self._learnable:
            parameter.requires_grad_(True)
        return tuple(self.learners.values())

    def predictor(self, owner: str = "student") -> Detector:
        """The detector as the method wires it: what is evaluated and exported. It shares the plan's weights."""
        if f"{owner}.{DETECTIONS}" not in predictions(self.method, self.graph):
            return self.detectors[owner]
        return rewired(self.detectors[owner], owner, self.graph, self.ops, self.method)

    def _learns(self, owner: str) -> bool:
        """True for detectors in training mode: the student, or what the present phase trains of student and teachers."""
        phase = self._declared_phase
        if phase is None:
            return owner == "student"
        return any(phase.trains(f"{owner}.{name}") for name, _ in self.detectors[owner].model.named_parameters())

    def train(self, mode: bool = True) -> Self:
        """Training mode for student and ops; teachers stay in eval mode.

        In a phase, the detectors of which it trains anything are in training mode, and all others in eval mode.
        """
        self.training = mode
        self.ops.train(mode)
        for owner, detector in self.detectors.items():
            learns = mode and self._learns(owner)
            detector.model.train(learns)
            for stage in detector.stages.values():
                stage.run.train(learns)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves teachers and stage wrappers along with the plan."""
        super()._apply(fn, recurse)
        for detector in self.detectors.values():
            for module in (detector.model, *(stage.run for stage in detector.stages.values())):
                module._apply(fn, recurse)
        return self

    def quicken(self) -> tuple[str, ...]:
        """Let frozen teachers run as programs where they are dense; returns these nodes (:mod:`kdflow.graph.program`)."""
        return add_programs(self.graph, self.teachers.keys() - self.learners.keys())

    def recompute(self) -> tuple[str, ...]:
        """Let the student's repeated blocks run again in the backward pass (:mod:`kdflow.graph.recompute`); returns their names.

        Raises:
            UsageError: The student has no such blocks.
        """
        found = recompute_blocks(self.student)
        if not found:
            raise UsageError("recipe.checkpoint_activations: the student has no repeated blocks to run again; leave it out")
        return found

    def compile_dense(self, backend: Backend = "inductor") -> tuple[str, ...]:
        """Let torch.compile have dense stages, ops and terms, in place; returns their nodes (:mod:`kdflow.graph.dense`)."""
        return compile_dense(self.graph.needed_by(term.name for term in self.terms), backend)

    def evaluate(self, values: Mapping[str, Any] | Batch, outputs: Iterable[str] | None = None) -> dict[str, Any]:
        """Values of nodes for given values: the graph is cut at every node that is given.

        Args:
            values: A batch, or node name -> value; batch values, ports and nodes may be given.
            outputs: Node names; by default all terms.

        Returns:
            Node name -> value; a term gives its unscheduled, unweighted scalar.
        """
        given = values.values() if isinstance(values, Batch) else values
        names = list(outputs) if outputs is not None else [t.name for t in self.terms]
        return evaluate(self.graph, dict(given), names)

    @property
    def preparations(self) -> tuple[PreparationRun, ...]:
        """Work to do over the data before training or each epoch."""
        return tuple(
            PreparationRun(node.name, self.method.prepare[node.name].every, self.method.prepare[node.name].batches)
            for node in self.graph.ordered()
            if node.prepared
        )


@dataclass(frozen=True)
class PreparationRun:
    """One preparation: when, over how many batches; :meth:`run` does it."""

    name: str
    every: str
    batches: int | None

    def run(self, plan: Plan, batches: Iterable[Batch]) -> None:
        """Observe the batches with all models in eval mode and without gradient; the state lands in ``plan.ops``."""
        node = plan.graph[self.name]
        module: Any = node.module.parts[0].inner
        was_training = plan.training
        plan.train(False)
        device = next(plan.student.parameters()).device
        try:
            with torch.no_grad():
                module.begin()
                for count, batch in enumerate(batches):
                    if self.batches is not None and count >= self.batches:
                        break
                    values = plan.evaluate(batch.to(device), list(node.operands()))
                    module.observe(**{key: values[str(name)] for key, name in node.inputs.items()})
                module.finish()
        finally:
            plan.train(was_training)


def op_weights(graph: Graph) -> dict[str, nn.Module]:
    """Modules with weights or state by name, copied stages included; a stack gives ``name.0``, ``name.1``, ..."""
    found: dict[str, nn.Module] = {}
    for node in graph.of_role(Role.OP):
        if node.op is None or not node.op.is_module or node.module is None:
            continue
        parts = [p.inner if isinstance(p, Prepared) else p for p in node.module.parts]
        stacked = bool(node.lifted) and not node.share and not node.prepared
        found[node.weights.replace(".", "_")] = nn.ModuleList(parts) if stacked else parts[0]
    return {**found, **_copies(graph)}


def _copies(graph: Graph) -> dict[str, nn.Module]:
    """Copied stages that the graph runs, by the name of their module."""
    nodes = [node for node in graph.of_role(Role.STAGE) if node.copied is not None]
    used = {node.weights: [n.stage for n in nodes if n.weights == node.weights] for node in nodes}
    return {node.weights: node.copied.only(dict.fromkeys(used[node.weights])) for node in nodes if node.copied}


def _complete(graph: Graph, names: Sequence[str]) -> bool:
    """True when every value that training needs comes from the batch or a stage, and nothing was given from outside."""
    return all(node.given is None for node in graph.upwards(*names))
