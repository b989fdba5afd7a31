"""``python -m benchmarks.end_to_end``: images per second with data loading, and where the time of a step goes.

The rate is measured with the engine's own step, untouched. A second pass takes the same step apart with timers around the modules
of ``plan.graph``; on a GPU each timer waits for the device, so that pass is slower and only its shares mean something.
Teachers have random weights: nothing is learnt here, and a step costs the same. ``--trace FILE`` also writes the time line of
three steps, with the names of the plan's nodes, for chrome://tracing or ui.perfetto.dev.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks import common, variants
from kdflow.engine.loop import train_step
from kdflow.engine.phases import lay_out
from kdflow.engine.training import Training
from kdflow.errors import KdflowError
from kdflow.experiment.reading import read_method
from kdflow.experiment.session import Session, open_session
from kdflow.experiment.setup import Setting, prepare
from kdflow.graph.node import Node, Role

PARTS = ("data", "teacher", "student forward", "terms", "other forward", "backward", "step", "watching")


class Shares:
    """Seconds by part; a part that is open inside another one is counted there only."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.wait = wait
        self._open: list[str] = []
        self._since = 0.0

    def enter(self, part: str) -> None:
        """Begin a part."""
        self._book()
        self._open.append(part)

    def leave(self) -> None:
        """End the innermost part."""
        self._book()
        self._open.pop()

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """A part as a context."""
        self.enter(part)
        try:
            yield
        finally:
            self.leave()

    def _book(self) -> None:
        self.wait()
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


def part_of(node: Node) -> str:
    """Where a node's time belongs."""
    if node.role is not Role.STAGE:
        return "terms"
    return "student forward" if node.owner == "student" else "teacher"


@contextmanager
def watched_nodes(plan: Any, enter: Callable[[Node], None], leave: Callable[[], None]) -> Iterator[None]:
    """``enter(node)`` before and ``leave()`` behind every module of the plan's graph."""
    handles = []
    for node in plan.graph.ordered():
        if node.module is not None and node.role in (Role.STAGE, Role.OP, Role.TERM):
            handles.append(node.module.register_forward_pre_hook(lambda *_, node=node: enter(node)))
            handles.append(node.module.register_forward_hook(lambda *_: leave()))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def write_trace(training: Training, file: str, steps: int = 3) -> None:
    """The time line of some of the engine's own steps, in Chrome's format."""
    ranges: list[Any] = []

    def enter(node: Node) -> None:
        ranges.append(torch.profiler.record_function(node.name))
        ranges[-1].__enter__()

    def leave() -> None:
        ranges.pop().__exit__(None, None, None)

    with torch.profiler.profile() as seen, watched_nodes(training.plan, enter, leave):
        for _ in range(steps):
            train_step(training)
    seen.export_chrome_trace(file)


def apart(training: Training, shares: Shares) -> None:
    """The engine's step with a timer around each of its lines (one batch per step, no clipping, no average)."""
    session = training.session
    with shares.of("data"):
        batch = training.next_batch()
    with shares.of("other forward"):
        training.advance(0)
        outcome = session.forward(batch)
    with shares.of("watching"):
        training.watch(outcome)
    with shares.of("backward"):
        session.backward(outcome.total)
    with shares.of("step"):
        session.step()
        training.advance_schedule()
    training.step += 1


def open_training(setting: Setting, session: Session) -> Training:
    """The engine in front of the bench's own loader."""
    feed = session.feed(setting)
    training = Training(
        setting.plan, setting.bench.recipe, session.machine, lay_out(setting.method.phases, variants.ENDLESS),
        feed.steps_per_epoch, setting.seed,
    )
    training.enter(0)
    training.open(feed.training)
    return training


def measure(setting: Setting, session: Session, *, steps: int, warmup: int, trace: str | None = None) -> dict[str, Any]:
    """Images per second, and shares of the parts; the time line goes to the file ``trace``."""
    device = session.machine.device.type
    wait, training = common.waiter(device), open_training(setting, session)
    for _ in range(warmup):
        train_step(training)
    wait()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        train_step(training)
        wait()
        times.append(time.perf_counter() - start)
    shares = Shares(wait)
    with watched_nodes(setting.plan, lambda node: shares.enter(part_of(node)), shares.leave):
        for _ in itertools.repeat(None, steps):
            apart(training, shares)
    if trace is not None:
        write_trace(training, trace)
    whole, batch = sum(shares.seconds.values()), setting.bench.recipe.batch
    return {
        "method": setting.method.method, "bench": setting.bench.bench, "size": setting.bench.data.size, "batch": batch,
        "precision": setting.bench.recipe.precision, "steps": steps, "machine": common.machine_facts(device),
        "images_per_second": common.estimate([batch / t for t in times]).as_json(),
        "step_ms": common.estimate([1e3 * t for t in times]).as_json(),
        "ms": {part: round(1e3 * seconds / steps, 3) for part, seconds in shares.seconds.items()},
        "share": {part: round(seconds / whole, 4) for part, seconds in shares.seconds.items()},
        "teacher_stages_run": setting.plan.report.teacher_stages_run,
        "teacher_stages_pruned": setting.plan.report.teacher_stages_pruned,
    }


def as_text(result: dict[str, Any]) -> str:
    """Rate and shares."""
    rate, rows = result["images_per_second"], [
        [part, f"{result['ms'][part]:.2f}", f"{100 * result['share'][part]:.1f} %"] for part in PARTS
    ]
    return "\n\n".join([
        "{method} on {bench}, {size} px, batch {batch}, {precision}, {steps} steps".format(**result),
        common.facts_line(result["machine"]),
        f"{rate['median']:.1f} images/s (95 % interval {rate['low']:.1f} to {rate['high']:.1f})",
        common.table(("part of a step", "ms", "share"), rows),
        f"teacher: runs {', '.join(result['teacher_stages_run'])}; never runs {', '.join(result['teacher_stages_pruned'])}",
    ])


def open_setting(options: argparse.Namespace) -> Setting:
    """The pair or bench with its own data and recipe, one plain batch per step."""
    overrides: dict[str, Any] = {
        "recipe.steps": variants.ENDLESS, "recipe.epochs": None, "recipe.clip_norm": None, "recipe.ema": None,
        "recipe.accumulate": 1, "recipe.precision": options.precision, "recipe.schedule": {"name": "constant"},
        "recipe.optimizer": {"name": "sgd", "lr": variants.RATE},
    }
    asked = {"data.size": options.size, "recipe.batch": options.batch, "data.workers": options.workers}
    overrides |= {key: value for key, value in asked.items() if value is not None}
    return prepare(read_method(options.method), variants.find_pair(options.pair), overrides=overrides)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.end_to_end", description=__doc__.partition("\n")[0])
    made.add_argument("--pair", default="tiny", help="tiny, r50-r18, or a bench by name or file")
    made.add_argument("--method", default="fitnet")
    made.add_argument("--size", type=int)
    made.add_argument("--batch", type=int)
    made.add_argument("--workers", type=int)
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--precision", choices=tuple(variants.PRECISIONS), default="fp32")
    made.add_argument("--threads", type=int)
    made.add_argument("--steps", type=int, default=50)
    made.add_argument("--warmup", type=int, default=10)
    made.add_argument("--trace", metavar="FILE", help="also write the time line of three steps")
    made.add_argument("--json", action="store_true")
    options = made.parse_args(arguments)
    common.parse_threads(options.threads)
    try:
        setting = open_setting(options)
        with open_session(options.device) as session:
            result = measure(setting, session, steps=options.steps, warmup=options.warmup, trace=options.trace)
    except KdflowError as error:
        raise SystemExit(str(error)) from None
    print(json.dumps(result, indent=1) if options.json else as_text(result))


if __name__ == "__main__":
    main()
