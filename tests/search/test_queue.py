"""Workers that share one storage: nothing is lost, nothing is done twice."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import IntegrityError, OperationalError

from kdflow.errors import UsageError
from kdflow.search import queue
from kdflow.search.queue import MAX_LOST, Queue, open_storage

ROOT = Path(__file__).parents[2]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'search.db'}"


def queue_of(url: str, size: int, worker: str = "here", grace: float = 60) -> Queue:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(url)
    study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True, direction="maximize")
    return Queue(study, storage, size, worker, beat=0.1, grace=grace)


def start(url: str, size: int, log: Path, *more: object) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "tests.search.drive", url, "s", str(size), str(log), *map(str, more)]
    return subprocess.Popen(words, cwd=ROOT, text=True, stderr=subprocess.PIPE)


def done_by(log: Path) -> Counter[int]:
    return Counter(int(line.split()[0]) for line in log.read_text().splitlines())


def test_three_workers_finish_exactly_the_trials_asked_for_none_lost_none_doubled(url: str, tmp_path: Path) -> None:
    queue_of(url, 20)
    log = tmp_path / "log"
    workers = [start(url, 20, log) for _ in range(3)]
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0], errors
    queue = queue_of(url, 20)
    assert queue.finished == 20
    assert done_by(log) == Counter(range(20))
    assert {t.number for t in queue.trials(TrialState.FAIL)} == {3, 8, 13, 18}
    assert all(t.user_attrs["reason"].startswith("out of memory") for t in queue.trials(TrialState.FAIL))
    assert not [t for t in queue.study.get_trials() if t.number >= 20 and t.state is not TrialState.WAITING]


def test_trial_of_a_killed_worker_is_repeated_with_the_same_values(url: str, tmp_path: Path) -> None:
    queue_of(url, 4)
    log = tmp_path / "log"
    dying = start(url, 4, log, 1)
    dying.communicate(timeout=120)
    assert dying.returncode == 9
    queue = queue_of(url, 4)
    (lost,) = queue.trials(TrialState.RUNNING)
    assert lost.number == 1
    helper = start(url, 4, log)
    errors = helper.communicate(timeout=120)[1]
    assert helper.returncode == 0, errors
    assert queue.finished == 4
    values = {line.split()[2] for line in log.read_text().splitlines() if line.startswith("1 ")}
    assert len(values) == 1
    assert done_by(log)[1] == 2
    assert queue.study.get_trials()[1].user_attrs["lost"] == 1


def test_workers_that_begin_at_the_same_moment_all_open_the_storage(url: str) -> None:
    begin, opened = threading.Barrier(6), list[RDBStorage]()

    def work() -> None:
        begin.wait()
        opened.append(open_storage(url))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 6


BEATEN = [
    OperationalError("CREATE TABLE", None, Exception("table studies already exists")),
    IntegrityError("INSERT", None, Exception("UNIQUE constraint failed: alembic_version.version_num")),
]


@pytest.mark.parametrize("beaten", BEATEN, ids=["table", "row"])
def test_a_worker_that_was_beaten_to_the_tables_tries_again(
    url: str, beaten: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = iter([beaten, beaten, RuntimeError("no such driver")])

    def refuse(*_: object, **__: object) -> RDBStorage:
        raise next(problems)

    monkeypatch.setattr(queue, "RDBStorage", refuse)
    monkeypatch.setattr(queue, "PAUSES", (0.0, 0.0, 0.0))
    with pytest.raises(UsageError, match="no such driver"):
        open_storage(url)


def test_only_one_of_many_claims_wins(url: str) -> None:
    queue_of(url, 5).fill()
    queues = [queue_of(url, 5, f"w{i}") for i in range(4)]
    claimed: list[int] = []

    def take(queue: Queue) -> None:
        while (number := queue.claim()) is not None:
            claimed.append(number)

    threads = [threading.Thread(target=take, args=(queue,)) for queue in queues]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == [0, 1, 2, 3, 4]


def test_surplus_of_two_workers_that_fill_at_once_is_never_claimed(url: str) -> None:
    queue = queue_of(url, 2)
    queue.fill()
    queue.study.enqueue_trial({})
    assert [queue.claim(), queue.claim(), queue.claim()] == [0, 1, None]
    queue_of(url, 3).fill()
    assert len(queue.study.get_trials()) == 3


def test_trial_with_signs_of_life_is_left_alone_and_a_silent_one_is_not(url: str) -> None:
    queue = queue_of(url, 2, grace=1.2)
    queue.fill()
    first, second = queue.claim(), queue.claim()
    assert (first, second) == (0, 1)
    with queue.alive(0):
        time.sleep(2.6)
        assert queue.recover() == [1]
    assert queue.trials(TrialState.WAITING)[0].number == 1


def test_trial_that_kills_every_worker_fails_with_the_reason(url: str) -> None:
    queue = queue_of(url, 1, grace=-5)
    queue.fill()
    for _ in range(MAX_LOST):
        assert queue.claim() == 0
        assert queue.recover() == [0]
    (failed,) = queue.trials(TrialState.FAIL)
    assert failed.user_attrs["reason"] == f"killed: its worker died {MAX_LOST} times"
    assert queue.claim() is None
    assert queue.finished == 1


def test_put_back_returns_a_running_trial_and_no_other(url: str) -> None:
    queue = queue_of(url, 1)
    queue.fill({"x": 0.25})
    assert not queue.put_back(0)
    assert queue.claim() == 0
    assert queue.put_back(0)
    assert queue.claim() == 0
    assert queue.trial(0).suggest_float("x", 0, 1) == 0.25


@pytest.mark.parametrize("text", ["search.db", "sqlite:////nowhere/at/all/x.db", "oracle-of-delphi://x"])
def test_storage_that_cannot_be_opened_is_said_in_words(text: str) -> None:
    with pytest.raises(UsageError, match="storage"):
        open_storage(text)
