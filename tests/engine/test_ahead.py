"""A stream that is one batch ahead: who is called when, and on a GPU which stream waits for which."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from kdflow.engine.ahead import Ahead, Lane, tensors_of
from kdflow.graph.early import feed
from kdflow.ports import Batch
from tests.engine.fakes import make_batch

CPU = torch.device("cpu")


class Log(list[str]):
    """What was called, in order."""

    def prepare(self, word: str = "prepare") -> Callable[[Batch], Batch]:
        def work(batch: Batch) -> Batch:
            self.append(f"{word} {batch.image_ids[0]}")
            return feed(batch, {"seen": batch.images.mean()})

        return work


def numbered(count: int, broken: int = -1) -> Iterator[Batch]:
    for number in range(count):
        if number == broken:
            raise OSError("broken picture")
        batch = make_batch(number)
        batch.image_ids = [number]
        yield batch


def ahead(log: Log, count: int = 5, left: int = 3, **options: Any) -> Ahead:
    return Ahead(numbered(count, **options), lambda batch: batch, log.prepare(), left, Lane(CPU))


def test_the_next_batch_is_prepared_before_the_step_of_the_present_one() -> None:
    log = Log()
    stream = ahead(log)
    for _ in range(3):
        log.append(f"step {next(stream).image_ids[0]}")
    # behind the last batch that the run needs nothing is begun
    assert log == ["prepare 0", "prepare 1", "step 0", "prepare 2", "step 1", "step 2"]


def test_values_are_those_of_the_own_batch() -> None:
    for number, batch in zip(range(3), ahead(Log()), strict=False):
        assert torch.equal(batch.values()["seen"], make_batch(number).images.mean())


def test_a_stream_that_ends_ends_at_its_turn() -> None:
    assert [batch.image_ids[0] for batch in ahead(Log(), count=2, left=9)] == [0, 1]


def test_a_fault_is_told_when_the_turn_of_its_batch_comes() -> None:
    stream = ahead(Log(), broken=1)
    assert next(stream).image_ids == [0]
    with pytest.raises(OSError, match="broken picture"):
        next(stream)


def test_a_fault_of_a_preparation_is_told_then_too() -> None:
    def work(batch: Batch) -> Batch:
        raise MemoryError if batch.image_ids[0] else RuntimeError("first")

    stream = Ahead(numbered(3), lambda batch: batch, work, 3, Lane(CPU))
    with pytest.raises(RuntimeError, match="first"):
        next(stream)


def test_a_new_preparation_counts_for_the_batch_that_waits() -> None:
    log = Log()
    stream = ahead(log)
    next(stream)
    stream.renew(log.prepare("again"))
    assert next(stream).image_ids == [1]
    assert log == ["prepare 0", "prepare 1", "again 1", "again 2"]


class FakeStream:
    """Notes what it is told to do."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other: FakeStream) -> None:
        self.log.append(f"{self.name} waits for all of {other.name}")

    def wait_event(self, event: str) -> None:
        self.log.append(f"{self.name} waits for {event}")

    def record_event(self) -> str:
        self.log.append(f"event on {self.name}")
        return f"event of {self.name}"


class OnGpu(torch.Tensor):
    """A tensor that says it lies on a GPU, and notes which stream will read it."""

    log: list[str]

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def record_stream(self, stream: FakeStream) -> None:  # type: ignore[override]
        self.log.append(f"read by {stream.name}")


def test_on_a_gpu_each_stream_waits_for_the_other_and_memory_is_known_to_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    step = FakeStream("step", log)

    @contextmanager
    def entered(stream: FakeStream) -> Iterator[None]:
        log.append(f"into {stream.name}")
        yield
        log.append(f"out of {stream.name}")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream("lane", log))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: step)
    monkeypatch.setattr(torch.cuda, "stream", entered)
    lane = Lane(torch.device("cuda"))
    result, event = lane.do(lambda: log.append("work") or "result")
    assert result == "result"
    assert log == ["lane waits for all of step", "into lane", "work", "event on lane", "out of lane"]
    log.clear()
    tensor = torch.ones(1).as_subclass(OnGpu)
    tensor.log = log
    lane.hand_over({"images": [tensor], "sizes": [(1, 2)]}, event)
    assert log == ["step waits for event of lane", "read by step"]


def test_tensors_inside_of_anything() -> None:
    batch = feed(make_batch(0), {"inside": {"more": (torch.ones(1), [torch.ones(2)])}})
    assert len(list(tensors_of([batch]))) == 1 + 2 * len(batch.boxes) + 2
