"""What a step of every entry takes, measured in one process, one entry after the other and back again."""

from __future__ import annotations

import gc
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdflow.compare.content import CostRow
from kdflow.compare.entries import Entrant, Protocol
from kdflow.engine.loop import fit
from kdflow.engine.run import Fit
from kdflow.events import Silent, StepEvent, StopRun
from kdflow.experiment.reading import read_method
from kdflow.experiment.run import give_weights
from kdflow.experiment.session import Session
from kdflow.experiment.setup import Setting, prepare

STEPS, WARMUP = 8, 3
"""Steps of a measurement, and how many of them do not count."""
MIB = 2.0**20

Times = list[float]


class Stopwatch(Silent):
    """Keeps the time of every step, and ends the run after some."""

    def __init__(self, steps: int) -> None:
        self.steps, self.times = steps, Times()

    def step_ended(self, event: StepEvent) -> None:
        """Note the time; raises StopRun after the last step."""
        self.times.append(event.step_time)
        if event.step >= self.steps:
            raise StopRun("measured")


def costs_of(
    entries: Sequence[Entrant],
    values: Mapping[str, Mapping[str, Any]],
    protocol: Protocol,
    session: Session,
    notify: Callable[[str], None] = print,
) -> dict[str, CostRow]:
    """Cost of a step near the beginning of training, of entries that have values; terms that begin later are not in it.

    Times are taken twice, in turn and in reverse, so that a machine that becomes slower does not favour the first.
    """

    def fresh(entry: Entrant) -> Setting:
        changes = {**protocol.common, **entry.overrides, **values[entry.name]}
        return prepare(read_method(entry.spec), protocol.bench, overrides=changes)

    measured = [entry for entry in entries if entry.name in values]
    rows: dict[str, CostRow] = {}
    for entry in measured:
        notify(f"cost of a step: {entry.name}")
        setting = fresh(entry)
        memory = round(memory_of(setting, session), 1)
        rows[entry.name] = CostRow(memory_mib=memory, teacher_stages=setting.plan.report.teacher_stages_run)
    times: dict[str, Times] = {entry.name: [] for entry in measured}
    for entry in [*measured, *reversed(measured)]:
        seen = _steps(fresh(entry), session, STEPS)
        times[entry.name] += seen[min(WARMUP, len(seen) - 1) :]
    return {
        name: row.model_copy(update={"step_ms": round(1000 * statistics.median(times[name]), 3) if times[name] else None})
        for name, row in rows.items()
    }


def memory_of(setting: Setting, session: Session) -> float:
    """MiB of two steps: on a GPU the most that was allocated, on a CPU what a step keeps for its backward pass."""
    if session.machine.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        _steps(setting, session, 2)
        return torch.cuda.max_memory_allocated() / MIB
    with kept_for_backward() as sizes:
        _steps(setting, session, 1)
    return sum(sizes.values()) / MIB


@contextmanager
def kept_for_backward() -> Iterator[dict[int, int]]:
    """Memory that autograd keeps inside: address of a storage -> bytes, each storage once."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.device.type == "cpu" and not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = max(storage.nbytes(), sizes.get(storage.data_ptr(), 0))
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


def _steps(setting: Setting, session: Session, steps: int) -> Times:
    """Seconds of the first steps of a run that leaves nothing behind."""
    feed, watch = session.feed(setting), Stopwatch(steps)
    give_weights(setting, session, feed, notify=lambda _: None)
    recipe = setting.bench.recipe.model_copy(update={"log_every": 1, "checkpoint_every": 1_000_000_000})
    with tempfile.TemporaryDirectory(prefix="kdflow-cost-") as folder:
        asked = Fit(
            setting.plan, recipe, Path(folder), feed.total_steps, feed.steps_per_epoch, setting.seed, hooks=[watch],
            phases=setting.method.phases, passes=feed.one_pass,
        )
        fit(asked, feed.training, resume=False, device=session.machine)
    gc.collect()
    return watch.times


def machine_facts(session: Session) -> dict[str, str]:
    """Where and when costs were measured."""
    device = session.machine.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": device.type, "name": name, "threads": str(torch.get_num_threads()),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }
