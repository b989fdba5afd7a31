"""Workers of one study on a real PostgreSQL server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from kdflow.search.definition import find_study
from kdflow.search.queue import Queue, open_storage
from tests.paths import BENCH
from tests.search.postgres import server
from tests.search.test_queue import done_by, start

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
TRIALS = 12


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with server() as address:
        yield address


@pytest.fixture
def opened(url: str) -> Iterator[Callable[[], RDBStorage]]:
    """The storage of this process, whose connections are closed at the end."""
    storages: list[RDBStorage] = []

    def go() -> RDBStorage:
        storages.append(open_storage(url))
        return storages[-1]

    yield go
    for storage in storages:
        storage.remove_session()
        storage.engine.dispose()


def search(url: str, home: Path, output: Path, *words: str) -> subprocess.Popen[str]:
    """``kdflow search`` as a process of its own; the teacher of two steps is let pass."""
    command = [
        sys.executable, "-m", "tests.experiment.drive", "search", "fitnet", "--bench", str(BENCH), "--trials", str(TRIALS),
        "--steps", "8", "--device", "cpu", "--storage", url, "--study", "real", "--sampler", "random", "--output", str(output),
        "--json", *words,
    ]
    environment = {**os.environ, "KDFLOW_HOME": str(home), "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_three_workers_of_the_same_command_finish_exactly_the_trials_asked_for(
    url: str, opened: Callable[[], RDBStorage], tmp_path: Path
) -> None:
    output = tmp_path / "runs"
    workers = [search(url, tmp_path / "home", output, "--join") for _ in range(3)]
    said = [worker.communicate(timeout=900) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0], "\n".join(error for _, error in said)

    storage = opened()
    study = find_study(storage, "real")
    assert study is not None
    queue = Queue(study, storage, TRIALS, "test")
    assert [trial.number for trial in queue.trials()] == list(range(TRIALS)), "none lost"
    assert {trial.state for trial in queue.trials()} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert not [t for t in study.get_trials() if t.number >= TRIALS and t.state is not TrialState.WAITING], "none beyond"

    finished = Counter(int(line.split()[1].rstrip(":")) for _, error in said for line in error.splitlines() if _ended(line))
    assert finished == Counter(range(TRIALS)), "each by one worker, once"
    assert {trial.user_attrs["worker"] for trial in queue.trials()} <= {_name(worker) for worker in workers}
    assert len({trial.user_attrs["worker"] for trial in queue.trials()}) > 1, "the work is shared"
    folders = {trial.user_attrs["folder"] for trial in queue.trials()}
    assert len(folders) == TRIALS
    assert sum(bool(json.loads(out)["test"]) for out, _ in said) >= 1
    assert study.user_attrs["test"]["trial"] in range(TRIALS), "the best student was measured on test"


def _ended(line: str) -> bool:
    return line.startswith("trial ") and line.partition(": ")[2].startswith(("complete ", "pruned ", "fail "))


def _name(worker: subprocess.Popen[str]) -> str:
    import socket

    return f"{socket.gethostname()}:{worker.pid}"


def test_trials_of_a_killed_worker_are_taken_over(url: str, opened: Callable[[], RDBStorage], tmp_path: Path) -> None:
    """The first worker dies in the first trial that it gets; two others repeat it and finish all 20."""
    storage, log = opened(), tmp_path / "log"
    study = optuna.create_study(study_name="s", storage=storage, direction="maximize")
    queue = Queue(study, storage, 20, "here")
    queue.fill()
    dying = start(url, 20, log, 0)
    dying.communicate(timeout=60)
    assert dying.returncode == 9
    workers = [start(url, 20, log) for _ in range(2)]
    errors = [worker.communicate(timeout=180)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    assert queue.finished == 20
    assert done_by(log) == Counter([*range(20), 0])
    assert study.get_trials()[0].user_attrs["lost"] == 1
