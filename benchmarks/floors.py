"""The plain student of every drawn bench, over seeds, and whether it reaches the floor that the bench states.

    python -m benchmarks.floors                                      every drawn bench, three seeds
    python -m benchmarks.floors --benches shapes-fcos --seeds 1
    python -m benchmarks.floors --check --seeds 1                    exit code 1 where a student stays below its floor
    python -m benchmarks.floors --teachers                           and each bench's teacher on the validation split
    python -m benchmarks.floors --teachers --seeds 0 --write         the teachers alone, beside what is kept of the students
    python -m benchmarks.floors --write                              keeps the measurement in docs/evidence/floors.json, .md

    python -m benchmarks.floors --teachers --write --state           and in the benches: their floors follow from it

One JSON line per bench. Benches whose student, data and recipe are the same share one training per seed. Finished runs in the
output folder are not repeated. A floor is 85 % of the least measured value, or 70 % while fewer than three seeds were measured.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.evidence.content import content_of, told
from kdflow.experiment.find import find_bench, names_in
from kdflow.experiment.hashes import detector_code, digest
from kdflow.experiment.reading import read_method
from kdflow.experiment.run import provide_teachers, run
from kdflow.experiment.session import Session, open_session
from kdflow.experiment.setup import prepare
from kdflow.resources import specs_folder
from kdflow.spec.bench import Bench
from kdflow.spec.load import read
from kdflow.spec.resolve import bench_of

PAGES = Path(__file__).parents[1] / "docs" / "evidence"
PLAIN, TAUGHT = "baseline", "fitnet"
SHARE, FEW_SEEDS_SHARE, ENOUGH_SEEDS = 0.85, 0.7, 3
"""Share of the least measured value that a floor is set to; less of it while the spread between seeds is not known."""

FLOOR_LINES = re.compile(r"(?:^# The plain student's AP50.*\n)?^floor:.*\n", re.MULTILINE)

Known = dict[str, tuple[float, float]]
"""Setting and seed -> AP50 on test and on validation."""


@dataclass
class FloorVerdict:
    """What the plain student of one bench reached, in percent on the test split; the teacher on validation.

    Attributes:
        bench: Name.
        AP50: Seed -> value.
        floor: The bench's own, None where it states none.
        passed: Every seed reached the floor.
        reason: Why not.
        validation: Seed -> AP50 on the validation split, to be compared with the teacher's.
        teacher: The teacher's AP50 on the validation split, where it was asked for.
        steps: Optimizer steps of the student.
        threads: Processor threads of the measurement.
        measured: Date.
        content: Hash of bench, data and code (:mod:`benchmarks.evidence.content`).
    """

    bench: str
    AP50: dict[int, float]
    floor: float | None
    passed: bool
    reason: str = ""
    validation: dict[int, float] = field(default_factory=dict)
    teacher: float | None = None
    steps: int | None = None
    threads: int = 0
    measured: str = ""
    content: str = ""


def drawn_benches() -> list[str]:
    """Benches that need no data from outside."""
    return [name for name in names_in(specs_folder() / "benches") if name.startswith("shapes-")]


def check_floors(
    benches: Iterable[str],
    *,
    seeds: int = 1,
    output: Path | None = None,
    session: Session | None = None,
    teachers: bool = False,
) -> list[FloorVerdict]:
    """Train the plain student of each bench and compare it with the bench's floor.

    Args:
        benches: Names or files.
        seeds: Seeds 0, 1, ... that are trained.
        output: Folder of the runs; finished ones in it are taken over.
        session: Device, data and teachers to share.
        teachers: Measure each bench's teacher too, trained first where it has only a recipe.
    """
    if session is None:
        with open_session("cpu") as own:
            return list(measured(benches, range(seeds), output, own, teachers))
    return list(measured(benches, range(seeds), output, session, teachers))


def measured(
    benches: Iterable[str], seeds: Sequence[int], output: Path | None, session: Session, with_teachers: bool
) -> Iterator[FloorVerdict]:
    """A verdict per bench, as soon as it is there."""
    known: Known = {}
    for name in benches:
        yield _measure(name, seeds, output, session, with_teachers, known)


def _measure(
    name: str, seeds: Sequence[int], output: Path | None, session: Session, with_teacher: bool, known: Known
) -> FloorVerdict:
    bench = bench_of(read(find_bench(name)), {})
    reached: dict[int, tuple[float, float]] = {}
    for seed in seeds:
        key = f"{student_key(bench)} {seed}"
        if key not in known:
            done = run(PLAIN, bench=name, seed=seed, output=output, resume=True, session=session, notify=_quiet)
            known[key] = done.metrics["AP50"], done.validation["AP50"]
        reached[seed] = known[key]
    test = {seed: round(value, 2) for seed, (value, _) in reached.items()}
    floor = bench.floor.AP50 if bench.floor else None
    low = [f"seed {seed} reached {value}" for seed, value in test.items() if floor is not None and value < floor]
    return FloorVerdict(
        bench.bench,
        test,
        floor,
        floor is not None and not low,
        "the bench states no floor" if floor is None else ", ".join(low),
        {seed: round(value, 2) for seed, (_, value) in reached.items()},
        _teacher(name, session) if with_teacher else None,
        bench.recipe.steps,
        torch.get_num_threads(),
        f"{datetime.now(UTC):%Y-%m-%d}",
        content_of(PLAIN, name),
    )


def student_key(bench: Bench) -> str:
    """Hash of all that determines the plain student: benches that differ in nothing but their teachers share it."""
    parts = bench.model_dump(mode="json", include={"data", "student", "recipe", "evaluation"})
    return digest({**parts, "code": detector_code(bench.student.detector)})


def _teacher(name: str, session: Session) -> float | None:
    """AP50 of the bench's teacher on the validation split; any method with a teacher names the detectors.

    None where the teacher is a backbone alone, which detects nothing.
    """
    setting = prepare(read_method(TAUGHT), name)
    found = provide_teachers(setting, session, session.feed(setting), notify=_quiet)
    value = found["teacher"][1].get("AP50") if "teacher" in found else None
    return None if value is None else round(value, 2)


def _quiet(_: str) -> None:
    """Says nothing."""


def suggestion(verdict: FloorVerdict) -> float | None:
    """The floor that these values justify; None without any."""
    if not verdict.AP50:
        return None
    share = SHARE if len(verdict.AP50) >= ENOUGH_SEEDS else FEW_SEEDS_SHARE
    return round(share * min(verdict.AP50.values()), 1)


def state(verdict: FloorVerdict, file: Path) -> None:
    """Write the floor that was measured into a bench file, in place of the one it states, with the values beside it."""
    values = ", ".join(f"{value:.1f}" for value in verdict.AP50.values())
    seeds = ", ".join(str(seed) for seed in verdict.AP50)
    threads = f"{verdict.threads} thread{'s' * (verdict.threads != 1)}"
    floor = f'{{AP50: {suggestion(verdict)}, seeds: {len(verdict.AP50)}, measured: "{verdict.measured}"}}'
    kept = FLOOR_LINES.sub("", file.read_text()).rstrip("\n")
    file.write_text(f"{kept}\n# The plain student's AP50 by seed ({seeds}): {values}; {threads}.\nfloor: {floor}\n")


HEAD = """# The plain student on every drawn bench

`python -m benchmarks.floors --seeds 3 --teachers --write --state`: AP50 in percent, students by seed on the test split; the
teacher, trained by its recipe, beside the student of seed 0 on the validation split. A floor is 85 % of the least measured
value, or 70 % while fewer than three seeds were measured. A teacher that is a backbone alone detects nothing and is not measured.

| bench | steps | student AP50, by seed | floor | student AP50 (val) | teacher AP50 (val) | measured | of this code |
|---|---|---|---|---|---|---|---|
"""


def page(rows: Iterable[Mapping[str, Any]]) -> str:
    """What was measured, as a page."""
    return HEAD + "".join(f"| {' | '.join(_cells(row))} |\n" for row in rows)


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [
        row["bench"],
        str(row["steps"]),
        ", ".join(f"{value:.1f}" for value in row["AP50"].values()),
        "none" if row["floor"] is None else f"{row['floor']:.1f}",
        f"{row['validation']['0']:.1f}" if row["validation"] else "not measured",
        "not measured" if row["teacher"] is None else f"{row['teacher']:.1f}",
        f"{row['measured']}, {row['threads']} thread{'s' * (row['threads'] != 1)}",
        told(row.get("content"), content_of(PLAIN, row["bench"])),
    ]


def write(verdicts: Iterable[FloorVerdict], folder: Path = PAGES) -> None:
    """Put what was measured into ``floors.json``, in place of older values of the same benches, and all into ``floors.md``."""
    file = folder / "floors.json"
    kept = {row["bench"]: row for row in json.loads(file.read_text())} if file.is_file() else {}
    for verdict in verdicts:
        row = json.loads(json.dumps(asdict(verdict)))
        known = kept.get(verdict.bench, row)
        teacher = known["teacher"] if verdict.teacher is None else verdict.teacher
        kept[verdict.bench] = {**(row if verdict.AP50 else known), "teacher": teacher}
    rows = [kept[name] for name in sorted(kept)]
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows, indent=1) + "\n")
    (folder / "floors.md").write_text(page(rows))


def main() -> int:
    """Exit code 1 with ``--check`` where a bench stays below its floor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benches", nargs="*", default=drawn_benches())
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--teachers", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--state", action="store_true")
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    failed = False
    with open_session("cpu") as session:
        for verdict in measured(options.benches, range(options.seeds), options.output, session, options.teachers):
            print(json.dumps({**asdict(verdict), "suggested": suggestion(verdict)}), flush=True)
            failed |= not verdict.passed
            if options.state and verdict.AP50:
                state(verdict, find_bench(verdict.bench))
                verdict = replace(verdict, floor=suggestion(verdict), passed=True, reason="")
            if options.write:
                write([verdict])
    return int(failed and options.check)


if __name__ == "__main__":
    sys.exit(main())
