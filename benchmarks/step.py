"""``python -m benchmarks.step``: one training step in kdflow, by hand, and in torchdistill, as ratios."""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Sequence
from typing import Any

from benchmarks import common, variants
from kdflow.engine.machine import open_machine
from kdflow.errors import KdflowError

RATIOS = {
    "kdflow_vs_hand_cut": ("kdflow", "hand_cut"),
    "kdflow_vs_hand_full": ("kdflow", "hand_full"),
    "kdflow_vs_torchdistill": ("kdflow", "torchdistill"),
    "kdflow_vs_torchdistill_eval": ("kdflow", "torchdistill_eval"),
    "kdflow_vs_student_only": ("kdflow", "student_only"),
    "plan_vs_hand_cut": ("plan", "hand_cut"),
    "hand_cut_vs_student_only": ("hand_cut", "student_only"),
    "hand_full_vs_student_only": ("hand_full", "student_only"),
    "torchdistill_vs_student_only": ("torchdistill", "student_only"),
    "torchdistill_eval_vs_student_only": ("torchdistill_eval", "student_only"),
    "kdflow_compiled_vs_kdflow": ("kdflow_compiled", "kdflow"),
}


def measure(method: str, machine: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Agreement, then times and ratios of one method."""
    build = {"size": options.size, "batch": options.batch, "compiled": options.compile}
    exact = variants.build_case(options.pair, method, machine, **build)
    agreement = variants.check_agreement(exact)
    case = exact if options.precision == "fp32" else None
    del exact
    if case is None:  # agreement is shown in fp32, where it means something
        case = variants.build_case(options.pair, method, machine, precision=options.precision, **build)
    gc.collect()
    times = common.interleave(
        case.steps(), rounds=options.rounds, warmup=options.warmup, wait=common.waiter(machine.device.type), seed=options.seed,
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
    worst = max(result["largest_difference"].values())
    parts.append(f"all variants agree: largest relative difference {worst:.1e}")
    parts += [f"left out: {name}: {reason}" for name, reason in result["left_out"].items()]
    return "\n\n".join(parts)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    made.add_argument("--pair", default="tiny", help="tiny, r50-r18, or a bench by name or file")
    made.add_argument("--method", nargs="+", default=["pkd"], help="pkd, fgd, fitnet")
    made.add_argument("--size", type=int, help="side of the images; the pair's own if left out")
    made.add_argument("--batch", type=int, default=2)
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--precision", choices=tuple(variants.PRECISIONS), default="fp32")
    made.add_argument("--threads", type=int)
    made.add_argument("--rounds", type=int, default=200)
    made.add_argument("--warmup", type=int, default=10)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument(
        "--clock", choices=tuple(common.CLOCKS), default="wall", help="cpu: seconds of this process alone, for a busy machine"
    )
    made.add_argument("--compile", action="store_true", help="also time kdflow with torch.compile on dense stages")
    made.add_argument("--json", action="store_true", help="one object per method; a list where there are several")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser().parse_args(arguments)
    common.parse_threads(options.threads)
    try:
        with open_machine(options.device) as machine:
            results = [measure(method, machine, options) for method in options.method]
    except (KdflowError, variants.DisagreementError) as error:
        raise SystemExit(str(error)) from None
    if options.json:
        print(json.dumps(results[0] if len(results) == 1 else results, indent=1))
    else:
        print("\n\n\n".join(map(as_text, results)))


if __name__ == "__main__":
    main()
