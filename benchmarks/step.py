"""``python -m benchmarks.step``: one training step in kdflow, by hand, and in torchdistill, as ratios."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Sequence
from typing import Any

from benchmarks import command, common, variants
from kdflow.engine.machine import Machine

RATIOS = {
    "kdflow_vs_hand_cut": ("kdflow", "hand_cut"),
    "kdflow_vs_hand_full": ("kdflow", "hand_full"),
    "kdflow_vs_torchdistill": ("kdflow", "torchdistill"),
    "kdflow_vs_torchdistill_eval": ("kdflow", "torchdistill_eval"),
    "kdflow_vs_student_only": ("kdflow", "student_only"),
    "plan_vs_hand_cut": ("plan", "hand_cut"),
    "hand_cut_vs_student_only": ("hand_cut", "student_only"),
    "hand_cut_vs_torchdistill": ("hand_cut", "torchdistill"),
    "hand_cut_vs_torchdistill_eval": ("hand_cut", "torchdistill_eval"),
    "hand_full_vs_student_only": ("hand_full", "student_only"),
    "torchdistill_vs_student_only": ("torchdistill", "student_only"),
    "torchdistill_eval_vs_student_only": ("torchdistill_eval", "student_only"),
    "kdflow_compiled_vs_kdflow": ("kdflow_compiled", "kdflow"),
    "kdflow_channels_last_vs_kdflow": ("kdflow_channels_last", "kdflow"),
    "kdflow_channels_last_vs_torchdistill": ("kdflow_channels_last", "torchdistill"),
    "kdflow_channels_last_vs_torchdistill_eval": ("kdflow_channels_last", "torchdistill_eval"),
}


def measure(method: str, machine: Machine, options: argparse.Namespace) -> dict[str, Any]:
    """Agreement, then times and ratios of one method."""
    build = {"size": options.size, "batch": options.batch, "compiled": options.compile, "channels_last": options.channels_last}
    exact = variants.build_case(options.pair, method, machine, **build)
    agreement = variants.check_agreement(exact)
    case = exact if options.precision == "fp32" else None
    del exact
    if case is None:  # agreement is shown in fp32, where it means something
        case = variants.build_case(options.pair, method, machine, precision=options.precision, **build)
    gc.collect()
    steps = case.steps()
    times = common.interleave(
        steps, rounds=options.rounds, warmup=options.warmup, wait=common.waiter(machine.device.type), seed=options.seed,
        clock=common.CLOCKS[options.clock],
    )
    return {
        "pair": options.pair, "method": method, "size": case.setting.bench.data.size, "batch": options.batch,
        "precision": options.precision, "rounds": options.rounds, "clock": options.clock,
        "machine": common.machine_facts(machine.device.type),
        "step_ms": {name: common.estimate([1e3 * t for t in own]).as_json() for name, own in times.items()},
        "ratios": {
            name: common.ratio(times, *pair).as_json() for name, pair in RATIOS.items() if times.keys() >= set(pair)
        },
        "working_mib": {name: common.working_memory(step, machine.device.type) for name, step in steps.items()},
        "largest_difference": agreement, "left_out": case.left_out,
        "teacher_stages_pruned": case.setting.plan.report.teacher_stages_pruned,
    }


def as_text(result: dict[str, Any]) -> str:
    """Two tables and what was left out."""
    head = "{pair}, {method}, {size} px, batch {batch}, {precision}, {rounds} rounds, {clock} time".format(**result)
    places = ("median", "low", "high", "q25", "q75")
    titles = ("median", "95 % low", "high", "q25", "q75")
    parts = [head, common.facts_line(result["machine"])]
    for title, values, form in (("step, ms", result["step_ms"], "{:.2f}"), ("ratio", result["ratios"], "{:.3f}")):
        rows = [[name, *(form.format(value[p]) for p in places)] for name, value in values.items()]
        parts.append(common.table((title, *titles), rows))
    memory = [[name, f"{mib:.0f}"] for name, mib in result.get("working_mib", {}).items() if mib is not None]
    if memory:
        parts.append(common.table(("memory of a step", "MiB"), memory))
    worst = max(result["largest_difference"].values())
    parts.append(f"all variants agree: largest relative difference {worst:.1e}")
    parts += [f"left out: {name}: {reason}" for name, reason in result["left_out"].items()]
    return "\n\n".join(parts)


def measure_all(options: argparse.Namespace, machine: Machine) -> Any:
    """The only result, or a list where several methods are asked for."""
    results = [measure(method, machine, options) for method in options.method]
    return results[0] if len(results) == 1 else results


def all_as_text(results: Any) -> str:
    """One text per method."""
    return "\n\n\n".join(map(as_text, results if isinstance(results, list) else [results]))


def parser() -> argparse.ArgumentParser:
    made = command.parser("step", __doc__, rounds=200, warmup=10)
    made.add_argument("--method", nargs="+", default=["pkd"], help="pkd, fgd, fitnet")
    made.add_argument("--compile", action="store_true", help="also time kdflow with recipe.compile")
    made.add_argument("--channels-last", action="store_true", help="also time kdflow with recipe.channels_last")
    command.precision_option(made)
    command.clock_option(made)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; JSON is one object per method, a list where there are several."""
    command.run(parser().parse_args(arguments), measure_all, all_as_text)


if __name__ == "__main__":
    main()
