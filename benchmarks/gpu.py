"""``python -m benchmarks.gpu``: what a GPU must show, in one command of at most six minutes.

First how fast it is: two pairs, with busy share of the GPU, launches, the places where the host waits, and peak memory. Then that
it is right: every method on its home bench takes a step in fp32 and bf16, its losses are finite and equal those of the CPU where
nothing is drawn; runs, a search, a resumed run and runs side by side go through. Prints one table and writes JSON.

    make gpu                                              all, on the first GPU
    python -m benchmarks.gpu --device cpu --tiny          the same on a CPU, on the smallest things: does the script run?
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks import common, evaluators, variants
from kdflow.engine.coco import HOTCOCO
from kdflow.engine.loop import train_step
from kdflow.engine.machine import Machine, open_machine
from kdflow.engine.phases import lay_out
from kdflow.engine.training import Training
from kdflow.events import Silent, StepEvent, StopRun
from kdflow.experiment.reading import read_method
from kdflow.experiment.setup import prepare
from kdflow.graph.node import Role
from kdflow.resources import specs_folder

SMALL = Path(__file__).parents[1] / "tests" / "benches" / "tiny.yaml"
TOLERANCE = {"fp32": 2e-3, "bf16": 1e-1}
"""Largest relative difference of a loss from the CPU's in fp32."""
LIMIT = 330.0


@dataclass(frozen=True)
class Mark:
    """One line of the table of speeds.

    Attributes:
        pair: File in ``benchmarks/pairs``.
        method: Slug.
        batch: Images per step.
        size: Side of the images; None takes the pair's.
        busy: Least busy share of the GPU in fast mode.
        milliseconds: Most milliseconds of a fast step.
        over_student: Most of a fast step over the plain student's, in the same process.
        teacher: Most that the teacher may take of a fast step.
    """

    pair: str
    method: str
    batch: int
    size: int | None
    milliseconds: float
    over_student: float = 1.0
    busy: float = 0.85
    teacher: float = 0.12


MARKS = (Mark("r101-r50", "pkd", 4, 800, 70.0), Mark("rt-detr", "fitnet", 16, 640, 80.0, over_student=0.6))
TINY_MARKS = (Mark(str(SMALL), "fitnet", 2, 64, 1e6, busy=0.0),)
EVALUATED = (2000, 100, 80)
"""Images, detections of each, classes of the evaluation that is timed."""
EVALUATION_SECONDS = 2.0


@dataclass
class Report:
    """What was found, and how much time is left.

    Attributes:
        device: ``cpu`` or ``cuda``.
        tiny: The smallest things only.
        limit: Seconds.
        checks: What -> ``ok``, or what was wrong.
        speeds: One entry per mark.
        evaluation: How long it takes to judge what was found, and the most it may.
        left_out: What time did not suffice for.
        took: Seconds of each check.
    """

    device: str
    tiny: bool
    limit: float
    checks: dict[str, str] = field(default_factory=dict)
    speeds: list[dict[str, Any]] = field(default_factory=list)
    evaluation: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    took: dict[str, float] = field(default_factory=dict)
    start: float = field(default_factory=time.perf_counter)

    @property
    def good(self) -> bool:
        return all(verdict == "ok" for verdict in self.checks.values())

    def check(self, name: str, work: Callable[[], None]) -> None:
        """Do the work while there is time; whatever it raises is what was wrong."""
        if time.perf_counter() - self.start > self.limit:
            self.left_out.append(name)
            return
        begin = time.perf_counter()
        try:
            work()
            self.checks[name] = "ok"
        except Exception as error:  # every check is reported, whatever is wrong with another
            self.checks[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        self.took[name] = round(time.perf_counter() - begin, 1)

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": common.machine_facts(self.device), "tiny": self.tiny, "checks": self.checks, "took": self.took,
            "speeds": self.speeds,
            "evaluation": self.evaluation, "left_out": self.left_out, "seconds": round(time.perf_counter() - self.start, 1),
        }


def methods(tiny: bool) -> list[str]:
    """Slugs of the shipped methods; two of them for the smallest run."""
    return ["fitnet", "mgd"] if tiny else sorted(file.stem for file in specs_folder().glob("*.yaml"))


def steps_like_cpu(slug: str, machine: Machine, precisions: Sequence[str], bench: str | None) -> None:
    """A step of a method in each precision: losses finite, alive, and equal to the CPU's where nothing is drawn before them."""
    setting = prepare(read_method(slug), bench, overrides={"recipe.batch": 2, "recipe.accumulate": 1})
    plan = setting.plan
    (sample,) = variants.make_samples(setting, "cpu", count=1)
    state = copy.deepcopy(plan.state_dict())
    plan.advance(0, 10, 5)
    with torch.no_grad():
        expected = {name: float(value) for name, value in plan(sample.batch).raw.items()}
    for precision in precisions:
        plan.load_state_dict(state)
        recipe = setting.bench.recipe.model_copy(update={"precision": precision})
        training = Training(plan, recipe, machine, lay_out(setting.method.phases, 10), 5)
        training.enter(0)
        training.batches = iter([sample.batch])
        compare(first_losses(training), expected, undrawn(plan, list(expected)), precision)


def first_losses(training: Training) -> dict[str, float]:
    """Raw losses of one whole step."""
    seen: dict[str, float] = {}
    with patch.object(training, "watch", lambda outcome: seen.update({n: float(v.detach()) for n, v in outcome.raw.items()})):
        train_step(training)
    training.check()
    return seen


def compare(seen: Mapping[str, float], expected: Mapping[str, float], equal: Sequence[str], precision: str) -> None:
    """RuntimeError where a loss is no number, dead here and alive on the CPU, or another than there."""
    for name, value in seen.items():
        there = expected.get(name, 0.0)
        if not math.isfinite(value):
            raise RuntimeError(f"{precision}: {name} is {value}")
        if there and not value:
            raise RuntimeError(f"{precision}: {name} is 0 here, and {there:.4g} on the CPU")
        if name in equal and abs(value - there) / max(abs(there), 1e-3) > TOLERANCE[precision]:
            raise RuntimeError(f"{precision}: {name} is {value:.6g}, on the CPU {there:.6g}")


def undrawn(plan: Any, names: Sequence[str]) -> list[str]:
    """Terms before which nothing is drawn and nothing chosen by rank, which rounding may turn."""
    graph = plan.graph
    chosen = (Role.STAGE,)
    return [
        name
        for name in names
        if not any(
            node.stochastic or (node.role in chosen and node.run is not None and not node.run.dense and node.run.infer)
            for node in graph.upwards(name)
        )
    ]


class Stop(Silent):
    """Ends a run behind its first step, as a kill would."""

    def step_ended(self, event: StepEvent) -> None:
        if "kd/hint" in event.raw and event.step == 2:
            raise StopRun("to be resumed")


def runs(report: Report, folder: Path) -> None:
    """Runs from start to end on the smallest bench, with a teacher that need not be good."""
    import kdflow
    from kdflow.experiment.request import RunRequest
    from kdflow.experiment.run import run
    from kdflow.experiment.together import run_together

    own: Any = {"bench": SMALL, "device": report.device, "output": folder / "runs", "notify": lambda _: None}

    def finished(*results: Any) -> None:
        if any(result.status != "finished" for result in results):
            raise RuntimeError(", ".join(f"{r.method} {r.status}" for r in results))

    def resumed() -> None:
        words: Any = {"steps": 2, "seed": 5, "fast": True, "overrides": {"recipe.checkpoint_every": 1, "recipe.log_every": 1}}
        run("fitnet", **own, **words, hooks=[Stop()])
        again = run("fitnet", **own, **words, resume=True)
        finished(again)
        if again.resumed_from_step != 1:
            raise RuntimeError(f"it went on from step {again.resumed_from_step}, not from 1")

    def together() -> None:
        requests = [RunRequest(slug, SMALL, seed=6, steps=2, fast=True) for slug in ("fitnet", "mgd")]
        finished(*run_together(requests, output=folder / "runs", device=report.device, notify=lambda _: None))

    def searched() -> None:
        found = kdflow.search(
            "fitnet", trials=1 if report.tiny else 2, steps=2, include={"recipe.optimizer.lr": "1e-4..1e-3,log"}, seed=7, **own
        )
        if not found.best:
            raise RuntimeError("the search has no best trial")

    with patch("kdflow.experiment.teacher.require_teacher", lambda *_: None):
        slugs = ("fitnet",) if report.tiny else ("fitnet", "mgd")
        report.check("run", lambda: finished(*(run(slug, **own, steps=2) for slug in slugs)))
        report.check("run --fast --together", together)
        report.check("run --fast --resume", resumed)
        report.check("search", searched)
        if report.device == "cuda":  # a compiler's warm-up does not pay in a test of seconds
            report.check("run --compile", lambda: finished(run("fitnet", **own, steps=2, compiled=True)))


@cache
def case_of(mark: Mark, machine: Machine, precision: str) -> variants.Case:
    """A mark's variants; building them takes longer than a step."""
    return variants.build_case(
        mark.pair, mark.method, machine, size=mark.size, batch=mark.batch, precision=precision, fast=True
    )


def fast_like_exact(mark: Mark, machine: Machine) -> None:
    """Losses of fast mode are those of exact mode up to rounding."""
    case = case_of(mark, machine, "fp32")
    exact, fast = (case.variants[name].losses(case.samples[0]) for name in ("kdflow", "kdflow_fast"))
    for name, value in exact.items():
        if name.startswith("kd/"):
            torch.testing.assert_close(fast[name].float(), value.float(), rtol=1e-2, atol=1e-4, msg=f"{name} differs")


def speed(mark: Mark, machine: Machine, precision: str, rounds: int) -> dict[str, Any]:
    """Times of a mark's variants, and what the exact and the fast step do."""
    case = case_of(mark, machine, precision)
    kind = machine.device.type
    steps = {name: step for name, step in case.steps().items() if name not in ("hand_full", "plan")}
    times = common.interleave(steps, rounds=rounds, warmup=3 if kind == "cuda" else 1, wait=common.waiter(kind))
    found = {name: {"ms": common.estimate([1e3 * t for t in own]).as_json()} for name, own in times.items()}
    for name in ("student_only", "kdflow", "kdflow_fast"):
        found[name]["peak_mib"] = common.working_memory(steps[name], kind)
        found[name] |= watched(partial(steps[name], 0)) if kind == "cuda" else {"waits": "not measured on a CPU"}
    return {
        "pair": mark.pair, "method": mark.method, "batch": mark.batch, "size": case.setting.bench.data.size,
        "precision": precision, "variants": found, "left_out": case.left_out, "marks": marks(mark, times, found),
    }


def marks(mark: Mark, times: Mapping[str, list[float]], found: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for, and what there is."""
    fast = common.estimate([1e3 * t for t in times["kdflow_fast"]]).median
    asked = {
        "fast step, ms": (fast, mark.milliseconds),
        "fast over plain student": (common.ratio(times, "kdflow_fast", "student_only").median, mark.over_student),
        "teacher's share of the fast step": (1 - common.ratio(times, "kdflow_fast_fed", "kdflow_fast").median, mark.teacher),
    }
    if "hand_cut" in times:
        asked["exact over hand-cut"] = (common.ratio(times, "kdflow", "hand_cut").median, 1.02)
    result = {name: {"found": round(own, 3), "most": most, "met": own <= most} for name, (own, most) in asked.items()}
    busy = found["kdflow_fast"].get("busy")
    if busy is not None:
        result["busy"] = {"found": busy, "least": mark.busy, "met": busy >= mark.busy}
    return result


def watched(step: Callable[[], object], times: int = 3) -> dict[str, Any]:
    """Busy share of the GPU, launches per step, and the places where the host waits."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        begin = time.perf_counter()
        for _ in range(times):
            step()
        torch.cuda.synchronize()
        wall = time.perf_counter() - begin
    events = profiler.events() or []
    launches = Counter(e.name for e in events if e.name.startswith(("cudaLaunch", "cuLaunch", "cudaGraphLaunch")))
    spans = [(e.time_range.start, e.time_range.end) for e in events if str(e.device_type).endswith("CUDA")]
    return {
        "busy": round(covered(spans) / 1e6 / wall, 3),
        "launches": round(sum(launches.values()) / times),
        "waits": waits(step),
    }


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def waits(step: Callable[[], object]) -> dict[str, int]:
    """Place in the code -> how often the host waited there in one step."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    places = [f"{Path(w.filename).name}:{w.lineno}" for w in seen if "synchroniz" in str(w.message)]
    return dict(Counter(places).most_common())


def as_text(report: Mapping[str, Any]) -> str:
    """One table of checks and speeds."""
    rows = [["check", name, f"{verdict} ({report['took'].get(name, 0)} s)"] for name, verdict in report["checks"].items()]
    for one in report["speeds"]:
        head = f"{Path(one['pair']).stem} {one['method']} {one['size']} px x {one['batch']} {one['precision']}"
        for name, own in one["variants"].items():
            extras = [f"{key} {own[key]}" for key in ("busy", "launches", "peak_mib") if own.get(key) is not None]
            if isinstance(own.get("waits"), dict):
                extras.append(f"waits {sum(own['waits'].values())}")
            rows.append([head, name, ", ".join([f"{own['ms']['median']:.2f} ms", *extras])])
        for name, own in one["marks"].items():
            goal = f"<= {own['most']}" if "most" in own else f">= {own['least']}"
            rows.append([head, name, f"{own['found']} ({goal}): {'met' if own['met'] else 'not met'}"])
    if report["evaluation"]:
        own = report["evaluation"]
        head = "{} images x {} detections x {} classes".format(*own["of"])
        rows.append([head, "evaluated", f"{own['found']} s (<= {own['most']}): {'met' if own['met'] else 'not met'}"])
    rows += [["left out", name, "no time left"] for name in report["left_out"]]
    return "\n\n".join([common.facts_line(report["machine"]), common.table(("what", "of", "found"), rows)])


def correctness(report: Report, machine: Machine, precisions: Sequence[str] = ("fp32", "bf16")) -> None:
    """All that must be right; ``pytest -m gpu`` holds this part."""
    bench = str(SMALL) if report.tiny else None
    for slug in methods(report.tiny):
        report.check(f"{slug}, {' and '.join(precisions)}", partial(steps_like_cpu, slug, machine, precisions, bench))
    for mark in TINY_MARKS:
        report.check(f"fast as exact: {mark.method}", partial(fast_like_exact, mark, machine))
    with tempfile.TemporaryDirectory() as folder, patch.dict("os.environ", {"KDFLOW_HOME": str(Path(folder) / "home")}):
        runs(report, Path(folder))


def speeds(report: Report, machine: Machine, rounds: int) -> None:
    """The table of speeds."""
    for mark in TINY_MARKS if report.tiny else MARKS:
        precision = "fp32" if report.tiny else "bf16"

        def work(mark: Mark = mark, precision: str = precision) -> None:
            report.speeds.append(speed(mark, machine, precision, rounds))

        report.check(f"speed: {Path(mark.pair).stem}, {mark.method}", work)
    report.check("evaluation", partial(evaluation, report))


def evaluation(report: Report) -> None:
    """How long it takes to judge what a detector has found."""
    size = (20, 10, 4) if report.tiny else EVALUATED
    found = evaluators.seconds(*evaluators.drawn(*size), HOTCOCO)
    report.evaluation = {"of": size, "found": round(found, 2), "most": EVALUATION_SECONDS, "met": found <= EVALUATION_SECONDS}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    made.add_argument("--tiny", action="store_true", help="the smallest things, to try the script")
    made.add_argument("--only", choices=("correctness", "speed"), help="one of the two parts")
    made.add_argument("--rounds", type=int, default=12)
    made.add_argument("--seconds", type=float, default=LIMIT, help="nothing new begins after so many")
    made.add_argument("--json", action="store_true", help="print JSON in place of the table")
    made.add_argument("--output", type=Path, help="file for the JSON")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Check, measure, print; SystemExit 1 where a check failed."""
    options = parser().parse_args(arguments)
    report = Report(options.device, options.tiny, options.seconds)
    with open_machine(options.device) as machine:
        # Speed first: it is the part that six minutes must hold.
        if options.only != "correctness":
            speeds(report, machine, options.rounds)
        if options.only != "speed":
            correctness(report, machine)
    if options.output:
        options.output.write_text(json.dumps(report.as_json(), indent=1))
    print(json.dumps(report.as_json(), indent=1) if options.json else as_text(report.as_json()))
    if not report.good:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
