"""The long checks: every method for a number of steps on its home bench, and the portability matrix; written to docs/.

    python -m benchmarks.evidence                          every method, 50 steps, and the whole matrix
    python -m benchmarks.evidence --methods pkd fgd        some methods
    python -m benchmarks.evidence --skip-matrix

Teachers are trained by their benches' recipes first and kept in the cache. A method passes when its run finishes, every term is
finite and alive, and its student loads strictly with its own library in a process without kdflow.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch

from kdflow.errors import KdflowError
from kdflow.experiment.matrix import as_markdown, portability
from kdflow.experiment.run import run
from kdflow.experiment.session import open_session
from kdflow.experiment.setup import names_in
from kdflow.resources import specs_folder

DOCS = Path(__file__).parents[1] / "docs"


@dataclass
class Verdict:
    """What a run of one method showed."""

    method: str
    bench: str
    passed: bool
    terms: dict[str, float] = field(default_factory=dict)
    AP50: float | None = None
    reason: str = ""


class LastTerms:
    """A hook that keeps the first and last raw value of every distillation term."""

    def __init__(self) -> None:
        self.raw: dict[str, float] = {}

    def run_started(self, event: object) -> None:
        self.raw = {}

    def step_ended(self, event: object) -> None:
        self.raw = {k: v for k, v in event.raw.items() if k.startswith("kd/")}  # type: ignore[attr-defined]

    def evaluation_ended(self, event: object) -> None:
        pass

    def run_ended(self, event: object) -> None:
        pass


def check(method: str, steps: int, output: Path, session: object) -> Verdict:
    """Run one method and judge it."""
    seen = LastTerms()
    try:
        result = run(method, steps=steps, output=output, hooks=[seen], notify=lambda _: None, session=session)
    except KdflowError as error:
        return Verdict(method, "", False, reason=str(error).splitlines()[0])
    unproven = [note for note in result.notes if note.startswith("not seen alive")]
    loads = subprocess.run(
        [sys.executable, "-c", "import student, sys; student.load(); assert 'kdflow' not in sys.modules"],
        cwd=result.folder, capture_output=True, text=True,
    )
    reason = "; ".join(unproven) or ("" if loads.returncode == 0 else loads.stderr.strip().splitlines()[-1])
    return Verdict(method, result.bench, not reason, seen.raw, result.metrics.get("AP50"), reason)


def report(verdicts: list[Verdict], steps: int) -> str:
    """The verdicts as a page."""
    machine = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    lines = [
        f"# Short runs of every method\n\n`python -m benchmarks.evidence`, {steps} steps each, "
        f"{datetime.now(UTC):%Y-%m-%d}, CPU: {machine}.",
        "These runs show that a method trains, that its terms live and that its student loads without kdflow; they are far too "
        "short for numbers to compare.\n",
        "| method | bench | passed | terms at the last report | reason |", "|---|---|---|---|---|",
    ]
    for v in verdicts:
        terms = ", ".join(f"{k[3:]} {value:.3g}" for k, value in v.terms.items())
        lines.append(f"| {v.method} | {v.bench} | {'yes' if v.passed else 'no'} | {terms} | {v.reason} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Exit code 1 when a method failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=names_in(specs_folder()))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--skip-matrix", action="store_true")
    parser.add_argument("--skip-runs", action="store_true")
    options = parser.parse_args()
    verdicts: list[Verdict] = []
    if not options.skip_runs:
        with tempfile.TemporaryDirectory() as folder, open_session("cpu") as session:
            for method in options.methods:
                verdicts.append(check(method, options.steps, Path(folder), session))
                print(json.dumps(vars(verdicts[-1])), flush=True)
        (DOCS / "evidence.md").write_text(report(verdicts, options.steps))
    if not options.skip_matrix:
        benches = [name for name in names_in(specs_folder() / "benches") if name.startswith("shapes-")]
        table = as_markdown(portability(names_in(specs_folder()), benches))
        head = "# Portability\n\n`python -m benchmarks.evidence`: every method compiled on every drawn bench.\n\n"
        (DOCS / "portability.md").write_text(head + table)
    return int(any(not v.passed for v in verdicts))


if __name__ == "__main__":
    sys.exit(main())
