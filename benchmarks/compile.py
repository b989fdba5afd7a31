"""``python -m benchmarks.compile``: how long it takes from a method's file to a checked plan and its explanation."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import common
from kdflow.errors import SpecError
from kdflow.experiment.build import canvas_of
from kdflow.experiment.find import find_bench, find_method, names_in
from kdflow.experiment.reading import read_method
from kdflow.experiment.setup import Setting, prepare
from kdflow.graph import draw
from kdflow.graph.compile import compile_method
from kdflow.resources import specs_folder


def measure(method: str, bench: str, repeat: int) -> dict[str, Any]:
    """Median milliseconds of each part; ``refused`` holds the first fault where the pair does not compile."""
    times: dict[str, list[float]] = {}
    made: dict[str, Any] = {"method": Path(method).stem, "bench": Path(bench).stem}

    def timed(part: str, action: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = action()
        times.setdefault(part, []).append(1e3 * (time.perf_counter() - start))
        return result

    try:
        for _ in range(repeat):
            spec = timed("parse", lambda: read_method(method))
            setting: Setting = timed("prepare", lambda spec=spec: prepare(spec, bench))
            timed("compile", lambda setting=setting: _compile(setting))
            text = timed("explain", lambda setting=setting: draw.as_text(setting.plan))
            made |= {"nodes": len(setting.plan.graph.dag), "lines_explained": text.count("\n") + 1}
    except SpecError as error:
        return {**made, "refused": str(error.faults[0])}
    return {**made, "ms": {part: round(statistics.median(own), 2) for part, own in times.items()}}


def _compile(setting: Setting) -> None:
    """The graph passes alone, on detectors that are there."""
    compile_method(
        setting.method, setting.document, setting.detectors, canvas=canvas_of(setting.bench, setting.detectors), seed=setting.seed
    )


def as_text(results: Sequence[dict[str, Any]]) -> str:
    """A table of what compiles, and a line for each pair that is refused."""
    parts = ("parse", "prepare", "compile", "explain")
    rows = [
        [r["method"], r["bench"], str(r["nodes"]), *(f"{r['ms'][p]:.1f}" for p in parts)] for r in results if "ms" in r
    ]
    refused = [f"refused: {r['method']} on {r['bench']}: {r['refused']}" for r in results if "refused" in r]
    head = "milliseconds; prepare builds the detectors with random weights and compiles, compile is its graph part alone"
    return "\n".join([head, common.table(("method", "bench", "nodes", *parts), rows), *refused])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.compile", description=__doc__)
    made.add_argument("--method", nargs="+", help="slugs or files; all that come with kdflow if left out")
    made.add_argument("--bench", nargs="+", help="names or files; all that come with kdflow if left out")
    made.add_argument("--repeat", type=int, default=3)
    made.add_argument("--threads", type=int)
    made.add_argument("--json", action="store_true")
    options = made.parse_args(arguments)
    common.parse_threads(options.threads)
    methods = [str(find_method(m)) for m in options.method or names_in(specs_folder())]
    benches = [str(find_bench(b)) for b in options.bench or names_in(specs_folder() / "benches")]
    if methods and benches:
        measure(methods[0], benches[0], 1)  # imports and first calls are no property of a pair
    results = [measure(method, bench, options.repeat) for bench in benches for method in methods]
    if options.json:
        print(json.dumps({"machine": common.machine_facts("cpu"), "results": results}, indent=1))
    else:
        print(as_text(results))


if __name__ == "__main__":
    main()
