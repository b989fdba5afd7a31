"""Two processes under torchrun: the same training as one process with the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from kdflow.engine.machine import Machine
from tests.engine.drive_many import PHASES, quiet_plan
from tests.engine.fakes import arguments, differences, fit, loader, make_recipe


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("many")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = str(Path(__file__).with_name("drive_many.py"))
    done = subprocess.run(
        [*command, script, str(folder)], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "found.pt", weights_only=True)


def test_two_processes_train_like_one_with_the_whole_batch(
    found: dict[str, Any], machine: Machine, tmp_path: Path
) -> None:
    plan = quiet_plan()
    result = fit(plan, loader, make_recipe(accumulate=2), **arguments(tmp_path, device=machine, phases=PHASES))
    torch.testing.assert_close(found["quiet"], dict(plan.state_dict()), rtol=1e-5, atol=1e-6)
    assert found["history"] == pytest.approx([e.total for e in result.history], rel=1e-5)


def test_processes_draw_different_numbers(found: dict[str, Any]) -> None:
    assert found["parts"] == [0, 2]  # two passes per step in each process


def test_killed_processes_resume_to_the_same_weights(found: dict[str, Any]) -> None:
    assert found["resumed_from"] == 8
    assert len(found["alone"]["random"]) == 2
    assert differences(found["killed"], found["alone"]) == []


def test_a_hook_of_the_first_process_stops_all(found: dict[str, Any]) -> None:
    assert found["stopped"] == [("stopped", "pruned", 5), ("stopped", "pruned", 5)]


def test_parameter_that_no_term_reaches_is_named(found: dict[str, Any]) -> None:
    assert found["culprit"] == "ops.idle.weight"


def test_all_processes_calibrate_and_control_to_the_same_weights_though_they_see_other_images(found: dict[str, Any]) -> None:
    (first, again), other = found["kept"]
    assert first == again
    assert other == (first, again)
    assert found["told"][0][0] == 0
    assert len(found["told"][0]) > 1
    assert found["told"][1] == []  # hooks run in the first process


def test_fast_mode_trains_like_exact_mode_and_alike_in_all_processes(found: dict[str, Any]) -> None:
    (first, other), (exact, _) = found["fast"], found["exact"]
    trained = [name for name in first if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(first[name], other[name]) for name in trained)
    for name in trained:
        torch.testing.assert_close(first[name], exact[name], rtol=1e-3, atol=1e-4, msg=name)
    assert any(not torch.equal(first[name], exact[name]) for name in trained), "rounding is another"
