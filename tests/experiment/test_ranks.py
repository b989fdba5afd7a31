"""A real detector in two processes: after ten steps the same weights as one process with the doubled batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from kdflow.engine.machine import open_machine
from kdflow.experiment.reading import read_method
from kdflow.experiment.setup import prepare
from tests.experiment.drive_ranks import BENCH, METHOD, train

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_with_the_doubled_batch(home: Path, tmp_path: Path) -> None:
    with open_machine("cpu") as machine:
        whole = train(tmp_path / "whole", 4, machine)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "KDFLOW_HOME": str(home)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = str(Path(__file__).with_name("drive_ranks.py"))
    done = subprocess.run(
        [*command, script, str(tmp_path), "2"], env=environment, capture_output=True, text=True, timeout=580, check=False
    )
    assert done.returncode == 0, done.stderr
    ranks: list[dict[str, Any]] = [torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in (0, 1)]
    assert ranks[0]["losses"] == pytest.approx(whole["losses"], rel=1e-4)
    start = start_of()
    moved = 0.0
    for name, value in whole["state"].items():
        assert torch.equal(ranks[0]["state"][name], ranks[1]["state"][name]), name
        torch.testing.assert_close(ranks[0]["state"][name], value, rtol=0, atol=1e-5, msg=name)
        moved = max(moved, float((value - start[name]).abs().max()))
    assert moved > 1e-3  # far more than the tolerance


def start_of() -> dict[str, torch.Tensor]:
    """Weights before the first step."""
    return dict(prepare(read_method(METHOD), BENCH).plan.state_dict())
