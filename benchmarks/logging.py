"""``python -m benchmarks.logging``: what MLflow tracking adds to a training step, with tracking on against off.

Two runs of one method in one process, equal but for the tracker, take turns in blocks of steps, in random order. The tracker is
the one of ``kdflow run`` on its default store (SQLite in a temporary folder). ``ratio`` is a block with tracking over the block
without it in the same round. Since the transfers run in a thread beside the loop and may reach into a block of the other run,
the time of tracking itself is counted as well: ``in the loop`` while the loop waits, ``beside it`` in the thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from benchmarks import command, common, variants
from benchmarks.together import unheard
from kdflow.engine.loop import train_step
from kdflow.engine.machine import Machine
from kdflow.engine.run import Run
from kdflow.tracking.mlflow import MlflowTracker
from kdflow.tracking.run import RunFacts

NOWHERE = Path("not-written")
GOAL = 0.02
"""Tracking should cost less than this share of a step."""


class Counted(MlflowTracker):
    """The tracker, with the time that it takes.

    Attributes:
        in_loop: Seconds that the loop waited.
        beside: Processor seconds of the transfers.
    """

    in_loop = 0.0
    beside = 0.0

    def step_ended(self, event: Any) -> None:
        begun = time.perf_counter()
        super().step_ended(event)
        self.in_loop += time.perf_counter() - begun

    def _send(self, values: Sequence[tuple[str, float, int, int]]) -> None:
        begun = time.thread_time()
        super()._send(values)
        self.beside += time.thread_time() - begun


def open_run(options: argparse.Namespace, machine: Machine, tracker: MlflowTracker | None) -> Run:
    """The engine in front of one method, reporting to the tracker or to nobody."""
    changes = {"recipe.log_every": options.log_every}
    setting = variants.open_setting(
        options.pair, options.method, size=options.size, batch=options.batch, precision="fp32", changes=changes
    )
    setting.plan.to(machine.device)
    samples = variants.make_samples(setting, machine.device.type)
    variants.calibrate(setting, samples[0])
    run = unheard(setting, machine, [] if tracker is None else [tracker])
    run.training.batches = (sample.batch for sample in cycle(samples))
    run.tell_start()
    return run


def block(run: Run, steps: int) -> Callable[[int], None]:
    """Some steps with the reports that fall due."""

    def go(_round: int) -> None:
        for _ in range(steps):
            with run.timed():
                train_step(run.training)
            run.report_if_due()

    return go


def facts_of(options: argparse.Namespace) -> RunFacts:
    """A run with the terms of the method, so that as many numbers are written as in earnest."""
    setting = variants.open_setting(options.pair, options.method, size=options.size, batch=options.batch, precision="fp32")
    terms = {term.name: term.nodes for term in setting.plan.terms}
    return RunFacts(method=setting.method.method, bench=setting.bench.bench, run_hash="benchmark", terms=terms)


def measure(options: argparse.Namespace, machine: Machine) -> dict[str, Any]:
    """Times of both, and what tracking took."""
    steps = options.log_every * options.reports
    with tempfile.TemporaryDirectory() as folder:
        tracker = Counted(facts_of(options), folder=Path(folder))
        runs = {"off": open_run(options, machine, None), "on": open_run(options, machine, tracker)}
        times = common.interleave(
            {name: block(run, steps) for name, run in runs.items()}, rounds=options.rounds, warmup=options.warmup,
            wait=common.waiter(machine.device.type), seed=options.seed,
        )
        tracker.finish({})
    done = steps * (options.rounds + options.warmup)
    step = common.estimate([t / steps for t in times["off"]])
    return {
        "pair": options.pair, "method": options.method, "batch": options.batch, "log_every": options.log_every,
        "rounds": options.rounds, "steps_per_block": steps, "machine": common.machine_facts(machine.device.type),
        "step_ms": {name: common.estimate([1e3 * t / steps for t in own]).as_json() for name, own in times.items()},
        "ratio": common.ratio(times, "on", "off").as_json(),
        "share_of_a_step": {
            "in_the_loop": round(tracker.in_loop / done / step.median, 6),
            "beside_it": round(tracker.beside / done / step.median, 6),
        },
        "goal": GOAL,
    }


def as_text(result: dict[str, Any]) -> str:
    """Two tables and the verdict."""
    head = "{pair}, {method}, batch {batch}, a report every {log_every} steps, {rounds} rounds of {steps_per_block} steps"
    rows = [[name, *(f"{value[p]:.2f}" for p in ("median", "low", "high"))] for name, value in result["step_ms"].items()]
    rows.append(["ratio", *(f"{result['ratio'][p]:.4f}" for p in ("median", "low", "high"))])
    share = result["share_of_a_step"]
    words = [f"in the loop {100 * share['in_the_loop']:.2f} %", f"beside it {100 * share['beside_it']:.2f} % of a step"]
    goal = f"goal: below {100 * result['goal']:g} %"
    times = common.table(("step, ms", "median", "95 % low", "high"), rows)
    parts = [head.format(**result), common.facts_line(result["machine"]), times]
    return "\n\n".join([*parts, f"tracking takes {', '.join(words)} ({goal})"])


def parser() -> argparse.ArgumentParser:
    made = command.parser("logging", __doc__, pair="shapes-faster-rcnn", batch=8, rounds=20, warmup=2)
    made.add_argument("--method", default="defeat")
    made.add_argument("--log-every", type=int, default=10, help="steps between reports")
    made.add_argument("--reports", type=int, default=3, help="reports per block")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    command.run(parser().parse_args(arguments), measure, as_text)


if __name__ == "__main__":
    main()
