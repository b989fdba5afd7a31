"""The part ``runs``: every method trains for some steps on its home bench.

A method passes when its run finishes, every term is finite and was seen alive, and its student loads strictly with its own
library in a process without kdflow.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.evidence.content import content_of, told
from kdflow.errors import KdflowError
from kdflow.events import Hook, StepEvent
from kdflow.experiment.run import run
from kdflow.experiment.session import Session, open_session
from kdflow.experiment.teacher import InterruptedTrainingError

LOAD_STUDENT = "import student, sys; student.load(); assert 'kdflow' not in sys.modules"


@dataclass
class Verdict:
    """What a short run of one method showed.

    Attributes:
        method: Slug.
        bench: Its home bench.
        steps: Length of the run.
        date: When it was made.
        passed: See the module.
        terms: Term -> unweighted value at the last report.
        reason: What failed.
        content: Hash of method, bench, data and code (:mod:`benchmarks.evidence.content`).
    """

    method: str
    bench: str
    steps: int
    date: str
    passed: bool
    terms: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    content: str = ""


class LastTerms(Hook):
    """Keeps the last raw value of every distillation term."""

    def __init__(self) -> None:
        self.raw: dict[str, float] = {}

    def step_ended(self, event: StepEvent) -> None:
        """Remember the values of a report."""
        self.raw |= {name: float(value) for name, value in event.raw.items() if name.startswith("kd/")}


def prove(methods: Iterable[str], steps: int, page: Path) -> bool:
    """Run the methods; write ``page``.json (rows of other methods are kept) and ``page``.md."""
    good = True
    with tempfile.TemporaryDirectory() as folder, open_session("cpu") as session:
        for method in methods:
            verdict = judge(method, steps, Path(folder), session)
            good &= verdict.passed
            print(json.dumps(asdict(verdict)), flush=True)
            _keep(verdict, page)
    return good


def _keep(verdict: Verdict, page: Path) -> None:
    """Put one row into both files, which another process may have written to meanwhile."""
    store = page.with_suffix(".json")
    rows = {row["method"]: row for row in json.loads(store.read_text())} if store.exists() else {}
    rows[verdict.method] = asdict(verdict)
    found = [rows[name] for name in sorted(rows)]
    store.write_text(json.dumps(found, indent=1) + "\n")
    page.with_suffix(".md").write_text(as_page(found))


def judge(method: str, steps: int, output: Path, session: Session) -> Verdict:
    """Run one method and look at what it left behind."""
    return replace(_judge(method, steps, output, session), content=content_of(method, steps=steps))


def _judge(method: str, steps: int, output: Path, session: Session) -> Verdict:
    seen, today = LastTerms(), f"{datetime.now(UTC):%Y-%m-%d}"
    try:
        result = run(method, steps=steps, output=output, hooks=[seen], notify=lambda _: None, session=session)
    except InterruptedTrainingError as error:
        raise SystemExit(f"{method}: {error}; nothing was written down of it") from error
    except KdflowError as error:
        return Verdict(method, "", steps, today, False, seen.raw, str(error).splitlines()[0])
    if result.status == "interrupted":
        raise SystemExit(f"{method}: {result.reason}; nothing was written down of it")
    if result.status != "finished":
        return Verdict(method, result.bench, steps, today, False, seen.raw, f"{result.status}: {result.reason}")
    unproven = [note for note in result.notes if note.startswith("not seen alive")]
    reason = "; ".join(unproven) or student_fault(Path(result.folder))
    return Verdict(method, result.bench, steps, today, not reason, seen.raw, reason)


def student_fault(folder: Path) -> str:
    """Why the saved student does not load without kdflow; empty when it does."""
    done = subprocess.run([sys.executable, "-c", LOAD_STUDENT], cwd=folder, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def as_page(rows: list[dict[str, Any]]) -> str:
    """The verdicts as a table."""
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    lines = [
        "# Short runs of every method",
        "",
        f"`python -m benchmarks.evidence runs`, on a CPU ({machine}). A method passes when its run finishes, every term is "
        "finite and was seen alive, and its student loads strictly with its own library in a process without kdflow. The runs "
        "are far too short for accuracies to be compared.",
        "",
        "| method | bench | steps | date | of this code | passed | terms at the last report, unweighted |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        values: dict[str, float] = row["terms"]
        terms = ", ".join(f"{name.removeprefix('kd/')} {value:.3g}" for name, value in values.items())
        passed = "yes" if row["passed"] else f"no: {row['reason']}"
        fresh = told(row.get("content"), content_of(row["method"], steps=row["steps"]))
        lines.append(f"| {row['method']} | {row['bench']} | {row['steps']} | {row['date']} | {fresh} | {passed} | {terms} |")
    return "\n".join(lines) + "\n"
