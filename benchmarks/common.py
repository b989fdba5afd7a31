"""Timing in one process: variants take turns in random order, and what counts are ratios within a turn."""

from __future__ import annotations

import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

Step = Callable[[int], object]
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Estimate:
    """A median with its uncertainty and the spread of what it is the median of.

    Attributes:
        median: Median.
        low: Lower end of the 95 % bootstrap interval of the median.
        high: Upper end.
        q25: First quartile of the values.
        q75: Third quartile.
    """

    median: float
    low: float
    high: float
    q25: float
    q75: float

    def as_json(self) -> dict[str, float]:
        return {key: round(value, 5) for key, value in asdict(self).items()}


def estimate(values: Sequence[float], resamples: int = 2000, seed: int = 0) -> Estimate:
    """Median, its 95 % percentile bootstrap interval, and quartiles of ``values``."""
    numbers = torch.tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(len(numbers), (resamples, len(numbers)), generator=generator)
    medians = numbers[draws].quantile(0.5, dim=1)
    low, high = medians.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    q25, q75 = numbers.quantile(torch.tensor([0.25, 0.75], dtype=torch.float64)).tolist()
    return Estimate(statistics.median(values), low, high, q25, q75)


def ratio(times: Mapping[str, Sequence[float]], over: str, under: str) -> Estimate:
    """``over / under`` round by round, so that what slows a whole round cancels."""
    return estimate([a / b for a, b in zip(times[over], times[under], strict=True)])


def interleave(
    steps: Mapping[str, Step],
    *,
    rounds: int,
    warmup: int,
    wait: Callable[[], None] = lambda: None,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each step per round; in every round each variant runs once, in an order drawn anew.

    Args:
        steps: Variant -> its step, called with the number of the round.
        rounds: Rounds that count.
        warmup: Rounds before them.
        wait: Waits for the device.
        seed: Seed of the orders; torch's generator is set to the same state before each step of a round.
        clock: Seconds.
    """
    order, draw = list(steps), random.Random(seed)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(warmup + rounds):
        draw.shuffle(order)
        for name in order:
            torch.manual_seed(number)
            wait()
            start = clock()
            steps[name](number)
            wait()
            if number >= warmup:
                times[name].append(clock() - start)
    return times


def working_memory(step: Step, device: str) -> float | None:
    """MiB that a step needs at most beyond what lay on the GPU before it; None on a CPU, where nothing counts it."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(0)
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


def waiter(device: str) -> Callable[[], None]:
    """Waits for all work on the device; nothing on a CPU."""
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def machine_facts(device: str) -> dict[str, Any]:
    """What a reader needs beside the numbers."""
    import torchvision

    return {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "kind": device,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def facts_line(facts: Mapping[str, Any]) -> str:
    """The machine in one line."""
    return ", ".join(f"{key} {value}" for key, value in facts.items())


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns in plain text: the first aligned left, the others right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths))).rstrip()
        for line in lines
    )


def parse_threads(count: int | None) -> None:
    """Set torch's threads, where asked."""
    if count is not None:
        torch.set_num_threads(count)
