"""``python -m benchmarks.kill``: SIGKILL at random moments of a whole ``kdflow run``, each followed by ``--resume``.

A whole run is teacher training, training, evaluation, export and record, each time in a new home. The moments are spread evenly
over its length, one drawn inside each stretch, and come in a random order. After the resumed run, and never otherwise, all is
well when the exported weights are bit for bit those of an undisturbed run, the numbers are equal, and MLflow has exactly one
finished run and no other that is not closed. Exit code 1 when that failed once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "tests" / "benches" / "tiny.yaml"


@dataclass(frozen=True)
class Ending:
    """What a run left: its last line, weights, and the states of its records."""

    metrics: dict[str, float]
    weights: dict[str, torch.Tensor]
    records: Counter[str]


def command(folder: Path, resume: bool) -> subprocess.Popen[str]:
    """One run in a folder that holds its home and its outputs."""
    environment = {**os.environ, "KDFLOW_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    words = [
        sys.executable, str(ROOT / "tests" / "experiment" / "drive.py"), "run", "fitnet", "--bench", str(BENCH),
        "--device", "cpu", "--json", "--steps", "8", "--set", "recipe.checkpoint_every=2", "--output", str(folder / "runs"),
    ]  # fmt: skip
    pipe = subprocess.PIPE
    return subprocess.Popen(
        words + ["--resume"] * resume, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


def whole(folder: Path, resume: bool = False) -> Ending:
    """A run to its end.

    Raises:
        RuntimeError: It failed; has its messages.
    """
    process = command(folder, resume)
    out, err = process.communicate()
    if process.returncode:
        raise RuntimeError(err[-2000:])
    last = json.loads(out.strip().splitlines()[-1])
    return Ending(last["metrics"], torch.load(last["student_path"], weights_only=True), records(folder / "runs" / "mlflow.db"))


def records(store: Path) -> Counter[str]:
    """State -> number of runs in the store."""
    connection = sqlite3.connect(store)
    try:
        return Counter(status for (status,) in connection.execute("SELECT status FROM runs"))
    finally:
        connection.close()


def killed(folder: Path, after: float) -> bool:
    """Kill a fresh run after so many seconds; False where it had ended by then."""
    process = command(folder, resume=False)
    try:
        process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    return False


def faults(expected: Ending, found: Ending) -> list[str]:
    """What differs from an undisturbed run."""
    wrong = [name for name, value in expected.weights.items() if not value.equal(found.weights[name])]
    said = [f"weights differ: {', '.join(wrong[:3])}"] if wrong else []
    said += [f"metrics are {found.metrics}"] if found.metrics != expected.metrics else []
    open_ones = {state: count for state, count in found.records.items() if state not in ("FINISHED", "KILLED", "FAILED")}
    if found.records["FINISHED"] != 1 or open_ones:
        said.append(f"records: {dict(found.records)}")
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, failed = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as name:
        begun = time.monotonic()
        expected = whole(Path(name) / "whole")
        length = time.monotonic() - begun
        print(f"undisturbed: {length:.1f} s, records {dict(expected.records)}")
        for number in draw.sample(range(options.moments), options.moments):
            folder = Path(name) / str(number)
            after = length * (number + draw.random()) / options.moments
            hit = killed(folder, after)
            try:
                said = faults(expected, whole(folder, resume=True))
            except RuntimeError as error:
                said = [f"does not resume: {error}"]
            failed += bool(said)
            how = "killed" if hit else "had ended"
            print(f"{number + 1}: {how} after {after:.1f} s: {'; '.join(said) or 'good'}", flush=True)
            shutil.rmtree(folder)
    print(f"{options.moments - failed} of {options.moments} good")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
