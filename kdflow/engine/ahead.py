"""A stream of batches that is one ahead: while the student takes its step, the frozen teacher sees the next images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

import torch
from torch import Tensor

from kdflow.ports import Batch

Prepare = Callable[[Batch], Batch]


class Lane:
    """Where the work ahead is done: on a CUDA stream of its own, or by plain calls.

    Args:
        device: Where batches are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def do(self, work: Callable[[], Any]) -> tuple[Any, Any]:
        """What ``work`` gives, and the event behind it on the lane; None where it is done already.

        The lane first waits for what the step's stream has been given so far. So no memory is written that a step still
        reads, weights are seen as they were when the work was asked for, and the lane never runs further than one batch ahead.
        """
        if self.stream is None:
            return work(), None
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            result = work()
            return result, self.stream.record_event()

    def hand_over(self, values: Any, event: Any) -> None:
        """Let the step's stream wait for the lane, and the allocator know that it reads memory of the lane."""
        if self.stream is None or event is None:
            return
        step = torch.cuda.current_stream(self.device)
        step.wait_event(event)
        for tensor in tensors_of(values):
            if tensor.is_cuda:
                tensor.record_stream(step)


def tensors_of(value: Any) -> Iterator[Tensor]:
    """All tensors in nested mappings, sequences and data classes."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from tensors_of(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from tensors_of(inner)
    elif is_dataclass(value):
        yield from tensors_of(vars(value))


@dataclass(frozen=True)
class Waiting:
    """A batch whose turn has not come.

    Attributes:
        batch: As it was placed on the device; None where there is none.
        prepared: With what was computed of it.
        event: Behind that work.
        fault: What went wrong with it; told when its turn comes.
    """

    batch: Batch | None = None
    prepared: Batch | None = None
    event: Any = None
    fault: Exception | None = None


class Ahead:
    """Batches in the order of a stream, each with its preparation, which is done one batch early.

    The order of the calls is the same on every device; only on a GPU do they run beside the step. Nothing of the preparation
    is kept in checkpoints: it is a function of the batch and of weights that do not change.

    Args:
        batches: The stream.
        place: Brings a batch to the device.
        prepare: What is computed of a placed batch.
        left: Batches that the run needs; behind the last one nothing is begun early.
        lane: Where the work is done.
    """

    def __init__(self, batches: Iterator[Batch], place: Prepare, prepare: Prepare, left: int, lane: Lane) -> None:
        self._batches, self._place, self._prepare = batches, place, prepare
        self._left, self._lane = left, lane
        self._next: Waiting | None = None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        present, self._next = self._next or self._begin(), None
        if present.fault is not None:
            raise present.fault
        if present.prepared is None:
            raise StopIteration
        self._lane.hand_over(present.prepared.values(), present.event)
        if self._left > 0:
            self._next = self._begin()
        return present.prepared

    def renew(self, prepare: Prepare) -> None:
        """From now on prepare otherwise; the batch that is waiting is prepared again."""
        self._prepare = prepare
        if self._next is not None and self._next.batch is not None:
            self._next = self._prepared(self._next.batch)

    def _begin(self) -> Waiting:
        self._left -= 1
        try:
            batch, event = self._lane.do(lambda: self._place(next(self._batches)))
        except StopIteration:
            return Waiting()
        except Exception as fault:  # of a batch that no step has asked for yet
            return Waiting(fault=fault)
        return self._prepared(batch, event)

    def _prepared(self, batch: Batch, event: Any = None) -> Waiting:
        try:
            prepared, event = self._lane.do(lambda: self._prepare(batch))
        except Exception as fault:
            return Waiting(batch, event=event, fault=fault)
        return Waiting(batch, prepared, event)
