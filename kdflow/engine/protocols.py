"""What the engine asks of a plan, its outcome and its batches: protocols, so that the engine knows no graph."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from kdflow.ports import Batch
from kdflow.spec.balance import Control

if TYPE_CHECKING:
    from torch import Tensor, nn

Loader: TypeAlias = Callable[[int], Iterable[Batch]]
"""``loader(k)`` gives batches ``k``, ``k + 1``, ... without end; each depends on (seed, rank, its number) only."""

Passes: TypeAlias = Callable[[], Iterable[Batch]]
"""One pass over the whole training set, in order and without augmentation, the same on every rank."""

Metrics: TypeAlias = Mapping[str, float]
"""Metric name -> value; average precisions are in percent, as in the literature."""


class TermInfo(Protocol):
    """What the engine knows of a term: its name (``kd/neck``, ``det/loss_box_reg``), whether it distils, and whom it trains."""

    @property
    def name(self) -> str:
        """Name, the same key as in :class:`Outcome`."""
        ...

    @property
    def is_distillation(self) -> bool:
        """True for terms of the method, False for the detector's own losses."""
        ...

    @property
    def auxiliary(self) -> bool:
        """True where it trains modules of the method or a teacher, and no gradient has to reach the student."""
        ...

    @property
    def weight(self) -> float:
        """Declared weight before the schedule, negative for a term that is subtracted; 1 or -1 where a share sets it."""
        ...

    @property
    def share(self) -> float | None:
        """Its share of the gradient, by which the weight is set when the run begins; None for a weight that is a number."""
        ...

    @property
    def control(self) -> Control | None:
        """How its weight follows the gradient during training."""
        ...


class Outcome(Protocol):
    """Result of one pass. ``raw`` values are before weight and schedule and still carry gradient."""

    @property
    def total(self) -> Tensor:
        """The scalar that is minimised."""
        ...

    @property
    def raw(self) -> Mapping[str, Tensor]:
        """Unscheduled, unweighted scalar of each term."""
        ...

    @property
    def weighted(self) -> Mapping[str, Tensor]:
        """What each term adds to ``total``."""
        ...

    @property
    def empty(self) -> Collection[str]:
        """Terms whose group of rows, places or objects was empty in this batch."""
        ...


class Preparation(Protocol):
    """Work over the data before training (``every: start``) or each epoch; its result lives in the plan's state."""

    @property
    def name(self) -> str:
        """Unique among the plan's preparations."""
        ...

    @property
    def every(self) -> str:
        """``start`` or ``epoch``."""
        ...

    def run(self, plan: Any, batches: Iterable[Batch]) -> None:
        """Go over ``batches`` and leave the prepared values in the plan's buffers."""
        ...


class Plan(Protocol):
    """The compiled method with its detectors, an ``nn.Module`` (see :class:`kdflow.graph.plan.Plan`).

    ``parameters()`` and ``state_dict()`` hold the student, the method's own modules and the teachers that some phase trains,
    never another teacher; ``train()`` keeps teachers in evaluation mode outside such a phase.
    """

    student: nn.Module
    lr_drop: float

    @property
    def teachers(self) -> Mapping[str, nn.Module]:
        """Teacher models by owner."""
        ...

    @property
    def terms(self) -> Sequence[TermInfo]:
        """All summands of the loss."""
        ...

    @property
    def weights(self) -> MutableMapping[str, float]:
        """Weight of each term before its schedule; what is written here counts from the next :meth:`advance` on."""
        ...

    @property
    def preparations(self) -> Sequence[Preparation]:
        """Work over the data before training or each epoch."""
        ...

    @property
    def resting(self) -> Collection[str]:
        """Terms whose weight is 0 at the present step, by schedule or phase."""
        ...

    def advance(self, step: int, total_steps: int, steps_per_epoch: int, part: int = 0) -> None:
        """Set schedule weights and random streams for ``step``.

        ``part`` tells apart the passes of one step: accumulated batches and ranks draw different numbers.
        """
        ...

    def enter(self, phase: str) -> None:
        """Go on in the phase of this name: its terms count from now on."""
        ...

    def whole(self) -> AbstractContextManager[None]:
        """Inside, the plan takes a plain batch, even where it is otherwise fed with values of a common pass."""
        ...

    def begin(self, phase: str) -> bool:
        """Let the student take over weights as the phase says, once, when it begins; True where it does."""
        ...

    def thaw(self) -> Sequence[nn.Module]:
        """Teachers that some phase trains, whose parameters require gradient from now on; the present phase decides."""
        ...

    def __call__(self, batch: Batch) -> Outcome:
        """Student, teachers (as far as needed) and terms on one batch."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Training mode for student and ops; teachers stay in evaluation mode."""
        ...

    def eval(self) -> Any:
        """Evaluation mode for all."""
        ...

    def to(self, *device: Any, **layout: Any) -> Any:
        """Move, teachers included; or change the layout (``memory_format=``)."""
        ...

    def quicken(self) -> Any:
        """Let frozen teachers run as fast programs, equal up to rounding."""
        ...

    def ahead(self) -> Callable[[Batch], Batch]:
        """What of a step needs images alone; from now on the plan takes batches that it was computed for."""
        ...

    def recompute(self) -> Any:
        """Let blocks of the student run again in the backward pass, which then need not keep what they compute."""
        ...

    def compile_dense(self) -> Any:
        """Compile what has no data-dependent shapes, in place."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """``student.*`` and ``ops.*``, with prepared state."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any:
        """Continue from a :meth:`state_dict`."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """``student.*``, ``ops.*``, and the teachers that some phase trains under their names."""
        ...

    def buffers(self) -> Iterator[Tensor]:
        """Statistics and other state that no gradient trains."""
        ...

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules that hold these parameters."""
        ...
