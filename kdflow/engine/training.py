"""Everything that changes while a run trains, and how it is saved and continued."""

from __future__ import annotations

import gc
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from kdflow.engine import ranks
from kdflow.engine.ahead import Ahead, Lane
from kdflow.engine.average import MovingAverage
from kdflow.engine.control import Controls
from kdflow.engine.invariants import FiniteWatch, LifeWatch, TeacherWatch
from kdflow.engine.machine import Machine, Session
from kdflow.engine.meter import Meter
from kdflow.engine.norms import prepare_norms, training_mode
from kdflow.engine.optim import STUDENT, build_optimizer, build_scheduler
from kdflow.engine.phases import Phase, select_parameters
from kdflow.engine.protocols import Loader, Outcome, Plan
from kdflow.engine.pull import PullWatch
from kdflow.engine.randomness import generator_state, generators_untouched, set_generator_state
from kdflow.engine.schedule import first_drop
from kdflow.errors import InvariantError, UsageError
from kdflow.events import Pull, WeightChange
from kdflow.ports import Batch
from kdflow.spec.bench import Recipe


@dataclass
class Training:
    """A plan under training.

    Attributes:
        plan: What is trained.
        recipe: How.
        machine: Where.
        phases: Stretches of the run, in order.
        steps_per_epoch: Optimizer steps in one pass over the data.
        seed: Seed of the run.
        step: Optimizer steps done.
        at: Index of the present phase; -1 before the first.
        prepared: Preparation -> epoch it was last run for.
        evaluated: Step of the last evaluation; -1 before the first.
        best: Metric, value and step of the best evaluation.
        lr: Largest learning rate of the last step.
        images: Images seen by this process since the last report.
        pulls: How hard each term was found to pull at the student, by name.
        calibrated: Terms whose weights were set by their share of the gradient.
        changes: Weights that have changed since the listeners were told.
    """

    plan: Plan
    recipe: Recipe
    machine: Machine
    phases: Sequence[Phase]
    steps_per_epoch: int
    seed: int = 0
    step: int = 0
    at: int = -1
    prepared: dict[str, int] = field(default_factory=dict)
    evaluated: int = -1
    best: dict[str, Any] = field(default_factory=dict)
    lr: float = 0.0
    images: int = 0
    pulls: dict[str, Pull] = field(default_factory=dict)
    calibrated: set[str] = field(default_factory=set)
    changes: list[WeightChange] = field(default_factory=list)

    # Made anew by each phase (enter), the stream of batches by open.
    session: Session = field(init=False)
    optimizer: Optimizer = field(init=False)
    scheduler: LambdaLR = field(init=False)
    parameters: dict[str, nn.Parameter] = field(init=False)
    reached: list[nn.Parameter] = field(init=False)
    meter: Meter = field(init=False)
    finite: FiniteWatch = field(init=False)
    gradient: FiniteWatch = field(init=False)
    life: LifeWatch = field(init=False)
    pull: PullWatch = field(init=False)
    controls: Controls = field(init=False)
    teachers: TeacherWatch = field(init=False)
    batches: Iterator[Batch] = field(init=False)

    def __post_init__(self) -> None:
        self.plan.to(self.machine.device)
        for teacher in self.plan.teachers.values():
            teacher.to(self.machine.device)
        for learner in (self.plan.student, *self.plan.thaw()):
            prepare_norms(learner, self.recipe.norms, self.machine.world_size, self.machine.device)
        if self.recipe.innermost:
            self.plan.to(memory_format=torch.channels_last)
        if self.recipe.checkpoint_activations:
            self.plan.recompute()
        if self.recipe.fast:
            self.plan.quicken()
        if self.recipe.compile or (self.recipe.fast and self.machine.is_gpu):
            self.plan.compile_dense()
        self.trainable = frozenset(name for name, p in self.plan.named_parameters() if p.requires_grad)
        self.average = MovingAverage(self.plan.student, self.recipe.ema) if self.recipe.ema else None

    @property
    def phase(self) -> Phase:
        """The present phase."""
        return self.phases[self.at]

    @property
    def total_steps(self) -> int:
        """Length of the run."""
        return self.phases[-1].end

    @property
    def epoch(self) -> int:
        """Passes over the data that are complete."""
        return self.step // self.steps_per_epoch

    @property
    def trains_student(self) -> bool:
        """True when the present phase changes the student."""
        return any(name.startswith(STUDENT) for name in self.parameters)

    def enter(self, index: int, saved: Mapping[str, Any] | None = None) -> None:
        """Begin phase ``index``: its terms, its parameters, a fresh optimizer and schedule, fresh watches.

        Args:
            index: Which phase.
            saved: A :meth:`state` of that phase to continue from.
        """
        self.at = index
        if self.phase.name:
            self.plan.enter(self.phase.name)
            if saved is None and self.plan.begin(self.phase.name) and self.average is not None:
                self.average.restart()
        self.parameters = select_parameters(self.plan, self.phase, self.trainable)
        self.optimizer = build_optimizer(self.recipe.optimizer, self.parameters, self.recipe.fast and self.machine.is_gpu)
        self.scheduler = build_scheduler(self.recipe.schedule, self.optimizer, self.phase.steps)
        self.session = self.machine.session(self.recipe.precision)
        if self.machine.world_size > 1:
            gc.collect()  # a forgotten DDP wrapper of the last phase would keep its gradient hooks
        self.session.take(self.plan, self.optimizer)
        self.meter, self.finite, self.gradient = Meter(), FiniteWatch(), FiniteWatch()
        watched = [t for t in self.plan.terms if t.is_distillation and self.phase.counts(t.name)]
        student = [p for name, p in self.parameters.items() if name.startswith(STUDENT)]
        self.life = LifeWatch((t.name for t in watched), auxiliary=(t.name for t in watched if t.auxiliary or not student))
        self.reached = student
        counting = [t for t in self.plan.terms if self.phase.counts(t.name)]
        self.pull = PullWatch(counting, self.phase.steps)
        self.controls = Controls(counting, self.parameters, self.steps_per_epoch)
        drop = first_drop(self.recipe.schedule, self.phase.steps)
        self.plan.lr_drop = math.inf if drop is None else self.phase.start + drop
        if saved is not None:
            self._continue(saved)
        self.training_mode()
        if isinstance(getattr(self, "batches", None), Ahead):
            self.batches.renew(self.early())  # type: ignore[attr-defined]  # the phase has a step of its own
        self.teachers = TeacherWatch(self.plan.teachers, self.optimizer, self.parameters.values())

    def training_mode(self) -> None:
        """Training mode under the recipe's norm policy."""
        training_mode(self.plan, self.recipe.norms)

    def open(self, loader: Loader) -> None:
        """Start the stream of batches at the present position.

        The first is fetched at once, and whatever starting draws does not count: streams are opened by one student or many.
        In fast mode the stream is one batch ahead.
        """
        with generators_untouched():
            stream = iter(loader(self.step * self.recipe.accumulate))
            self.batches = itertools.chain(list(itertools.islice(stream, 1)), stream)
        if self.recipe.fast:
            left = (self.total_steps - self.step) * self.recipe.accumulate
            self.batches = Ahead(self.batches, self.placed, self.early(), left, Lane(self.machine.device))

    def early(self) -> Callable[[Batch], Batch]:
        """What of the present phase's step is computed one batch ahead."""
        return self.in_precision(self.plan.ahead())

    def in_precision(self, work: Callable[[Batch], Batch]) -> Callable[[Batch], Batch]:
        """The same work in the recipe's precision."""

        def prepare(batch: Batch) -> Batch:
            with self.session.precision.forward_context():
                return work(batch)

        return prepare

    def next_batch(self) -> Batch:
        """The next batch, on the device."""
        try:
            batch = next(self.batches)
        except StopIteration:
            raise UsageError(f"the training data ended at step {self.step}; a loader goes on without end") from None
        self.images += len(batch.image_sizes)
        return self.placed(batch)

    def placed(self, batch: Batch) -> Batch:
        """The batch on the device, its images in the recipe's layout."""
        batch = batch.to(self.machine.device)
        if self.recipe.innermost:
            batch.images = batch.images.contiguous(memory_format=torch.channels_last)
        return batch

    def advance(self, part: int) -> None:
        """Tell the plan where the run is; ``part`` is the pass within the step."""
        passes_before = self.machine.rank * self.recipe.accumulate
        self.plan.advance(self.step, self.total_steps, self.steps_per_epoch, passes_before + part)

    def advance_schedule(self) -> None:
        """Move to the next learning rate, after an optimizer step."""
        self.lr = max(group["lr"] for group in self.optimizer.param_groups)
        # fp16 may skip the very first optimizer step; torch then takes the order of the calls for a mistake.
        with warnings.catch_warnings() if self.session.scaled else nullcontext():
            if self.session.scaled:
                warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step\\(\\)` before")
            self.scheduler.step()

    def watch(self, outcome: Outcome) -> None:
        """Judge one pass, before its backward."""
        values = self.meter.add(outcome)
        self.finite.see(self.meter.names, values, self.step)
        scale = 2.0**12 if self.session.scaled else 1.0
        self.life.judge(outcome, self.reached, list(self.parameters.values()), scale, self.plan.resting)
        self.pull.look(outcome, self.plan.weights, self.reached, self.step - self.phase.start, scale)
        self.controls.look(outcome, self.plan.weights, self.reached, self.step, scale)

    def change(self, changes: Sequence[WeightChange]) -> None:
        """Give terms new weights, and remember to tell of it."""
        self.plan.weights.update((change.term, change.after) for change in changes)
        self.changes.extend(changes)

    def pulls_known(self) -> tuple[Pull, ...]:
        """What the steps of this phase have told of its terms' pulls; once, when it is enough."""
        found = self.pull.tell(self.step - self.phase.start, self.plan.weights)
        self.pulls.update((pull.term, pull) for pull in found)
        return found

    def watch_gradient(self, norm: Tensor) -> None:
        """Judge the norm of the gradient; in fp16 an overflow is legal, the step is then skipped."""
        if not self.session.scaled:
            self.gradient.see(("gradient",), norm.detach().reshape(1), self.step)

    def watch_reach(self) -> None:
        """Name parameters without gradient where several processes train: averaging over processes would stop there."""
        if self.machine.world_size == 1 or self.step != self.phase.start:
            return
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                raise InvariantError(
                    name,
                    "no term's gradient reaches this parameter, which training on several processes does not allow; "
                    "freeze it, or leave it out of the phase's train:",
                )

    def check(self, thorough: bool = False) -> None:
        """Raise InvariantError if a term or gradient was not finite or a teacher moved.

        Args:
            thorough: Compare the teachers' weights too, not only their buffers.
        """
        self.finite.check()
        self.gradient.check()
        self.teachers.check(thorough)

    def state(self) -> dict[str, Any]:
        """All that is needed to continue; in the same types on every machine."""
        return {
            "step": self.step,
            "phase": self.at,
            "plan": self.plan.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.session.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "random": ranks.gather(generator_state()),
            "prepared": dict(self.prepared),
            "evaluated": self.evaluated,
            "best": dict(self.best),
            "meter": self.meter.state_dict(),
            "life": self.life.state_dict(),
            "pull": self.pull.state_dict(),
            "weights": dict(self.plan.weights),
            "calibrated": sorted(self.calibrated),
            "controls": self.controls.state_dict(),
            "pulls": {name: [pull.weight, pull.pull] for name, pull in self.pulls.items()},
        }

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Continue from a saved state, with every random stream where it was."""
        self.enter(saved["phase"], saved)
        set_generator_state(saved["random"][self.machine.rank])

    def _continue(self, saved: Mapping[str, Any]) -> None:
        self.step, self.evaluated = saved["step"], saved["evaluated"]
        self.prepared, self.best = dict(saved["prepared"]), dict(saved["best"])
        self.plan.load_state_dict(saved["plan"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        self.session.load_state_dict(saved["scaler"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        self.meter.load_state_dict(saved["meter"], self.machine.device)
        self.life.load_state_dict(saved["life"])
        self.pull.load_state_dict(saved.get("pull", {}))
        self.plan.weights.update(saved.get("weights", {}))
        self.calibrated = set(saved.get("calibrated", ()))
        self.controls.load_state_dict(saved.get("controls", {}))
        self.pulls = {name: Pull(name, *values) for name, values in saved.get("pulls", {}).items()}
