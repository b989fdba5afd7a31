"""Several students on one stream of batches and one pass of the teachers; each ends with the weights it would have alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from kdflow.engine import ranks
from kdflow.engine.ahead import Ahead, Lane, Prepare
from kdflow.engine.interruption import Interruption
from kdflow.engine.loop import INTERRUPTED, FitResult, begin, ready, result_of, train_step
from kdflow.engine.machine import Machine
from kdflow.engine.protocols import Loader
from kdflow.engine.randomness import generator_state, generators_untouched, set_generator_state
from kdflow.engine.run import Fit, Run
from kdflow.engine.training import Training
from kdflow.errors import InvariantError, UsageError
from kdflow.events import RunEnded, StopRun
from kdflow.ports import Batch


class SharedPass(Protocol):
    """What several plans have in common, computed once (see :class:`kdflow.graph.share.Shared`)."""

    def __call__(self, batch: Batch, step: int, part: int) -> Sequence[Batch]:
        """The batch for each plan, with what was computed for it."""
        ...

    def early(self, batch: Batch) -> Batch:
        """The batch with what of the pass needs its images alone."""
        ...


@dataclass
class Student:
    """One training of a group under way.

    Attributes:
        run: Its training, folder, listeners and clock.
        random: Its own state of the global generators, in place while it is its turn.
        ended: How it ended; None while it goes on.
    """

    run: Run
    random: dict[str, Any] = field(default_factory=generator_state)
    ended: RunEnded | None = None

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.run.training.step

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Its turn: with its own generators; what goes wrong with it ends it, and no other student.

        Raises:
            InvariantError: Where several processes train, which a student that is missing in one of them would leave waiting.
        """
        set_generator_state(self.random)
        try:
            yield
        except StopRun as stop:
            self.end(RunEnded("stopped", self.step, str(stop)))
        except InvariantError as fault:
            self.end(RunEnded("failed", self.step, str(fault)))
            if self.run.training.machine.world_size > 1:
                raise
        finally:
            self.random = generator_state()

    def end(self, ended: RunEnded) -> None:
        """Leave the group, and tell the listeners."""
        self.ended = ended
        training = self.run.training
        if hasattr(training, "optimizer"):
            training.optimizer.zero_grad(set_to_none=True)
        self.run.tell_end(ended)


class Stream:
    """One stream of batches for all students, opened anew where they jump (all that are behind have left).

    Args:
        loader: As for :func:`kdflow.engine.loop.fit`.
        accumulate: Batches per step.
        steps: Steps of the longest student.
    """

    def __init__(self, loader: Loader, accumulate: int, steps: int) -> None:
        self.loader, self.accumulate, self.steps = loader, accumulate, steps
        self._step = -1
        self._batches: Iterator[Batch] = iter(())
        self._early: Prepare | None = None

    def of(self, step: int, training: Training, early: Prepare | None = None) -> Iterator[Batch]:
        """The batches of one step on the device; with ``early``, each was prepared by it, one batch ahead."""
        if step != self._step:
            with generators_untouched():
                self._batches = iter(self.loader(step * self.accumulate))
            if early is not None:
                left, lane = (self.steps - step) * self.accumulate, Lane(training.machine.device)
                self._batches = Ahead(self._batches, training.placed, early, left, lane)
        elif early is not None and early is not self._early and isinstance(self._batches, Ahead):
            self._batches.renew(early)
        self._early = early
        self._step = step + 1
        for _ in range(self.accumulate):
            try:
                yield training.placed(next(self._batches))
            except StopIteration:
                raise UsageError(f"the training data ended at step {step}; a loader goes on without end") from None


@dataclass
class Group:
    """Students that train together.

    Attributes:
        students: All, those that have ended included.
        stream: Their data.
        share: Makes the common pass of some plans.
        machine: Where.
    """

    students: Sequence[Student]
    stream: Stream
    share: Callable[[Sequence[Any]], SharedPass]
    machine: Machine
    _sharing: tuple[tuple[tuple[int, int], ...], SharedPass, Prepare | None] | None = None

    @property
    def living(self) -> list[Student]:
        """Students that have not ended."""
        return [student for student in self.students if student.ended is None]

    def train(self) -> None:
        """Step by step until every student has ended; those ahead after a resume wait for the others."""
        while living := self.living:
            if living[0].run.interrupted():
                self._interrupt()
                return
            step = min(student.step for student in living)
            taking = [student for student in living if student.step == step and self._ready(student)]
            if taking:
                self.step(taking, step)

    def _ready(self, student: Student) -> bool:
        with student.turn():
            if ready(student.run):
                return True
            student.end(RunEnded("finished", student.step))
        return False

    def step(self, taking: Sequence[Student], step: int) -> None:
        """One optimizer step of each of these students, all at step ``step``; the common time is shared out equally."""
        start = time.perf_counter()
        batches = self._batches(taking, step)
        share = (time.perf_counter() - start) / len(taking)
        for student, own in zip(taking, batches, strict=True):
            run = student.run
            run.busy += share
            run.training.batches = iter(own)
            with student.turn():
                with run.timed():
                    train_step(run.training)
                run.report_if_due()
            own.clear()

    def _batches(self, taking: Sequence[Student], step: int) -> list[list[Batch]]:
        """The step's batches for each student, with the common values, which are computed here."""
        training = taking[0].run.training
        shared, early = self._shared(taking)
        passes_before = self.machine.rank * self.stream.accumulate
        found: list[list[Batch]] = [[] for _ in taking]
        for part, batch in enumerate(self.stream.of(step, training, early)):
            with training.session.precision.forward_context():
                fed = shared(batch, step, passes_before + part)
            for own, one in zip(found, fed, strict=True):
                own.append(one)
        return found

    def _shared(self, taking: Sequence[Student]) -> tuple[SharedPass, Prepare | None]:
        """The common pass of these students, made anew when one has left, joined, or entered another phase.

        With it what is done one batch ahead, in fast mode.
        """
        key = tuple((id(student), student.run.training.at) for student in taking)
        if self._sharing is None or self._sharing[0] != key:
            training = taking[0].run.training
            shared = self.share([student.run.training.plan for student in taking])
            self._sharing = key, shared, training.in_precision(shared.early) if training.recipe.fast else None
        return self._sharing[1:]

    def _interrupt(self) -> None:
        for student in self.living:
            with student.turn():
                student.run.save()
                student.run.checkpoints.finish()
                student.end(RunEnded("interrupted", student.step, INTERRUPTED))


def fit_together(
    asked: Sequence[Fit],
    loader: Loader,
    share: Callable[[Sequence[Any]], SharedPass],
    machine: Machine,
    *,
    resume: bool = True,
) -> list[FitResult]:
    """Train several plans side by side.

    On a CPU, at one number of threads, each student's weights are bit for bit those of :func:`kdflow.engine.loop.fit` alone. A
    student that fails (a value that is not finite, a dead term, a changed teacher) leaves the group with the status ``failed``
    and its reason; the others go on. Where several processes train, such a failure ends the group.

    Args:
        asked: The students; batches per step, precision and length of an epoch are the same for all.
        loader: One stream of batches for all.
        share: ``share(plans)`` makes what some of the plans have in common.
        machine: The open device.
        resume: Continue each student from its folder's checkpoint, however far each had come.

    Returns:
        One result per student, in order.

    Raises:
        UsageError: A checkpoint of another run, patterns that fit nothing, students that cannot share a stream.
    """
    _check(asked)
    with ExitStack() as stack, generators_untouched():
        interruption = stack.enter_context(Interruption())
        students = [Student(Run.open(one, loader, machine, interruption, resume)) for one in asked]
        steps = max(one.total_steps for one in asked)
        group = Group(students, Stream(loader, asked[0].recipe.accumulate, steps), share, machine)
        for student in students:
            with student.turn():
                begin(student.run, resume)
        try:
            with ranks.links():
                for student in group.living:
                    with student.turn():
                        student.run.tell_start()
                group.train()
        except BaseException as fault:
            for student in group.living:
                student.end(_broken(student, fault))
            raise
        return [result_of(student.run, _ended(student)) for student in students]


def _check(asked: Sequence[Fit]) -> None:
    for other in asked[1:]:
        for name in ("accumulate", "precision", "compile", "channels_last", "fast"):
            first, own = getattr(asked[0].recipe, name), getattr(other.recipe, name)
            if first != own:
                raise UsageError(f"students that train together share recipe.{name}; here it is {first} and {own}")


def _ended(student: Student) -> RunEnded:
    if student.ended is None:
        raise AssertionError("a group ends when all its students have")
    return student.ended


def _broken(student: Student, fault: BaseException) -> RunEnded:
    if isinstance(fault, KeyboardInterrupt):
        return RunEnded("interrupted", student.step, "stopped at the keyboard")
    return RunEnded("failed", student.step, str(fault) or type(fault).__name__)
