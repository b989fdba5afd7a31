"""``python -m benchmarks.sweep``: every method that fits a bench, over seeds; its table and its report for the documentation.

    python -m benchmarks.sweep                                        # shapes-faster-rcnn, 3 seeds
    python -m benchmarks.sweep --bench shapes-retinanet --seeds 1 --together 4
    python -m benchmarks.sweep --resume                               # what is missing or failed

It calls ``kdflow sweep``, then writes ``docs/evidence/results-<bench>.md`` and ``docs/evidence/report-<bench>/index.html``.
Methods that do not fit the bench are listed with the reason. The exit code is 1 when a run failed.
"""

from __future__ import annotations

import argparse
import platform
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from kdflow.api import report, results
from kdflow.cli.main import main as kdflow
from kdflow.errors import KdflowError
from kdflow.experiment.find import names_in
from kdflow.experiment.reading import read_method
from kdflow.experiment.setup import prepare
from kdflow.folders import runs_folder
from kdflow.resources import specs_folder
from kdflow.results.record import BASELINE
from kdflow.results.table import render

DOCS = Path(__file__).parents[1] / "docs" / "evidence"


def fitting(methods: Sequence[str], bench: str) -> tuple[list[str], dict[str, str]]:
    """Methods that compile on the bench, the plain student first; the others with the reason."""
    good, refused = [], {}
    for name in methods:
        try:
            prepare(read_method(name), bench)
        except KdflowError as error:
            refused[name] = str(error).splitlines()[0].partition(": ")[2] or str(error).splitlines()[0]
        else:
            good.append(name)
    return sorted(good, key=lambda name: (name != BASELINE, name)), refused


def words_of(options: argparse.Namespace, methods: Sequence[str]) -> list[str]:
    """The command line of the sweep."""
    words = ["sweep", *methods, "--bench", options.bench, "--seeds", str(options.seeds), "--device", options.device]
    for name in ("steps", "together"):
        if getattr(options, name) is not None:
            words += [f"--{name}", str(getattr(options, name))]
    return words


def page(options: argparse.Namespace, words: Sequence[str], refused: dict[str, str]) -> str:
    """Table, command, machine, and what was left out."""
    where = f"bench = '{options.bench}'"
    answer = results(by="taxonomy", where=where, store=options.output)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() and options.device != "cpu" else platform.machine()
    lines = [
        f"# Every method on {options.bench}", "",
        f"{datetime.now(UTC):%Y-%m-%d}, {options.seeds} seed(s), torch {torch.__version__} on {device}, "
        f"{torch.get_num_threads()} thread(s). The bench is small and drawn: it shows that methods train, and says little about "
        "COCO. How far plain students of different seeds lie apart is in [the table of floors](floors.md).", "",
        "```console", f"$ python -m benchmarks.sweep --bench {options.bench} --seeds {options.seeds}", "```", "",
        "which runs", "", "```console", f"$ kdflow {shlex.join(words)}", f'$ kdflow results --where "{where}" --format md', "```",
        "",
        f"[The same as a report](report-{options.bench}/index.html).", "", "## By taxonomy", "", render(answer, "markdown"),
    ]
    if refused:
        lines += ["## Methods that do not fit this bench", "", *(f"- {name}: {reason}" for name, reason in refused.items())]
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--bench", default="shapes-faster-rcnn")
    made.add_argument("--methods", nargs="+", default=names_in(specs_folder()), help="all unless told")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--steps", type=int, help="the recipe's unless told")
    made.add_argument("--together", type=int, help="train so many jobs side by side")
    made.add_argument("--device", default="auto")
    made.add_argument("--output", type=Path, default=runs_folder(), help="folder of runs")
    made.add_argument("--resume", action="store_true")
    made.add_argument("--docs", type=Path, default=DOCS, help="folder of the pages")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code of the sweep."""
    options = parser().parse_args(arguments)
    methods, refused = fitting(options.methods, options.bench)
    words = words_of(options, methods)
    place = ["--output", str(options.output), *(["--resume"] if options.resume else [])]
    code = kdflow([*words, *place])
    options.docs.mkdir(parents=True, exist_ok=True)
    (options.docs / f"results-{options.bench}.md").write_text(page(options, words, refused), encoding="utf-8")
    report(options.docs / f"report-{options.bench}", f"bench = '{options.bench}' or origin = 'published'", store=options.output)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
