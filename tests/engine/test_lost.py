"""A process that dies ends the run of all with a clear error, and leaves a checkpoint to go on from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdflow.engine import ranks
from kdflow.engine.checkpoint import LAST, read
from kdflow.errors import LostProcessError


def launch(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = str(Path(__file__).with_name("drive_loss.py"))
    return subprocess.run(
        [*command, script, *words], env=environment, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.mark.slow
def test_a_killed_process_ends_the_run_and_leaves_a_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    killed = launch(str(tmp_path), "die")
    assert killed.returncode != 0
    assert "kdflow says: process 0 of 2 lost the link to another process of this run" in killed.stderr
    assert "start all processes again with --resume" in killed.stderr
    assert read(tmp_path / LAST)["step"] == 8
    resumed = launch(str(tmp_path))
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed from 8, finished at 12" in resumed.stdout


def test_only_errors_of_the_link_are_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(words: str) -> None:
        with ranks.links():
            raise RuntimeError(words)

    peer = "[../gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:3218"
    with pytest.raises(RuntimeError, match=r"pair\.cc"):  # a single process has no link
        fail(peer)
    monkeypatch.setattr(ranks, "connected", lambda: True)
    monkeypatch.setattr(ranks, "rank", lambda: 0)
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    with pytest.raises(LostProcessError, match=r"process 0 of 2 lost the link.*pair\.cc"):
        fail(peer)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        fail("mat1 and mat2 shapes cannot be multiplied")
    assert type(caught.value) is RuntimeError
