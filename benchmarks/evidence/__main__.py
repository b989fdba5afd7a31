"""Runs the long checks and writes what they showed to docs/evidence/.

    python -m benchmarks.evidence                                  all parts
    python -m benchmarks.evidence runs --methods pkd fgd           some methods, the page keeps the others' rows
    python -m benchmarks.evidence portability floors tests         some parts
    python -m benchmarks.evidence compiled                         of portability what needs no training
    python -m benchmarks.evidence stale                            which rows were measured with other code, benches or data

Teachers are trained by their benches' recipes first and kept in ``$KDFLOW_HOME``. The exit code is 1 when anything failed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.evidence import content, portability, runs, tests
from benchmarks.floors import check_floors
from kdflow.experiment.find import names_in
from kdflow.resources import specs_folder

PAGES = Path(__file__).parents[2] / "docs" / "evidence"
PARTS = ("runs", "portability", "floors", "tests", "stale")
SHORTER = ("compiled",)


def main() -> int:
    """Exit code 1 when a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join((*PARTS, *SHORTER))}; none: {', '.join(PARTS)}")
    parser.add_argument("--methods", nargs="*", default=names_in(specs_folder()), help="methods of the part runs")
    parser.add_argument("--benches", nargs="*", default=shapes_benches(), help="benches of portability and floors")
    parser.add_argument("--steps", type=int, default=50, help="length of the runs of the part runs")
    options = parser.parse_args()
    parts = options.parts or PARTS
    if unknown := set(parts) - {*PARTS, *SHORTER}:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join((*PARTS, *SHORTER))}")
    PAGES.mkdir(exist_ok=True)
    good = [_part(part, options) for part in parts]
    return int(not all(good))


def _part(part: str, options: argparse.Namespace) -> bool:
    if part == "runs":
        return runs.prove(options.methods, options.steps, PAGES / "runs")
    if part in ("portability", "compiled"):
        return portability.prove(options.benches, PAGES / "portability.md", trained=part == "portability")
    if part == "floors":
        verdicts = check_floors(options.benches)
        for verdict in verdicts:
            print(f"{verdict.bench}: {verdict.AP50}, floor {verdict.floor} {verdict.reason}".rstrip(), flush=True)
        return all(verdict.passed for verdict in verdicts)
    if part == "stale":
        for words in content.stale(PAGES):
            print(words, flush=True)
        return True
    return tests.prove()


def shapes_benches() -> list[str]:
    """Names of the embedded benches."""
    return [name for name in names_in(specs_folder() / "benches") if name.startswith("shapes-")]


if __name__ == "__main__":
    sys.exit(main())
