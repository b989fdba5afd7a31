"""Trials as a queue in Optuna's storage: a study of N trials has exactly N, however many workers share it.

Trials 0 to N-1 are the study. They are written down as waiting when it begins; a worker claims one by changing its state in one
conditional statement of the database, which only one worker can win. Whoever dies leaves a trial whose heartbeat has
stopped; another worker puts it back. A trial that is put back keeps its number and its values, so none is lost or doubled.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import TrialHeartbeatModel, TrialModel
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from kdflow.errors import KdflowError, UsageError
from kdflow.files import in_words
from kdflow.urls import require_answer, sqlite_url

BEAT, GRACE = 10.0, 60.0
"""Seconds between two signs of life, and after the last one until a trial is given to another worker."""
PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0)
"""Seconds before a storage is opened again by a worker that was beaten to making it."""
MAX_LOST = 3
"""A trial whose worker has died this often counts as failed: it may be what kills them."""


def storage_url(given: str | None, output: Path) -> str:
    """The given database, else ``search.db`` in the folder of runs, which is made."""
    if given:
        return given
    with in_words(output):
        output.mkdir(parents=True, exist_ok=True)
    return sqlite_url(output / "search.db")


def open_storage(url: str) -> RDBStorage:
    """Optuna's storage at a database URL; tables are made if they are not there.

    Raises:
        UsageError: The database cannot be opened, or its driver is not installed.
    """
    if not url.partition("://")[2]:
        raise UsageError(f'--storage {url}: write a database URL such as sqlite:///search.db or postgresql+psycopg://host/name')
    require_answer(url, "the search storage")
    options = {"connect_args": {"timeout": 120}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    pauses = iter(PAUSES)
    while True:
        try:
            return RDBStorage(url, engine_kwargs=options)
        except (SQLAlchemyError, ImportError, RuntimeError, optuna.exceptions.StorageInternalError) as error:
            cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
            words = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]
            pause = next(pauses, None) if _beaten(cause) else None
            if pause is None:
                raise UsageError(f"the search storage {url} cannot be opened: {words}") from error
        time.sleep(pause)


def _beaten(error: BaseException | None) -> bool:
    """Whether a database refused to make a table, or its first row, because another worker has made it meanwhile."""
    return isinstance(error, IntegrityError) or "already exists" in str(error)


class Queue:
    """The first ``size`` trials of a study.

    Args:
        study: The study, loaded from ``storage``.
        storage: The database.
        size: Trials of the study in all.
        worker: Name of this worker, kept with its trials.
        beat: Seconds between two signs of life of a running trial.
        grace: Seconds without one after which its worker counts as dead.
    """

    def __init__(
        self, study: optuna.Study, storage: RDBStorage, size: int, worker: str, beat: float = BEAT, grace: float = GRACE
    ) -> None:
        self.study = study
        self.storage = storage
        self.size = size
        self.worker = worker
        self.beat = beat
        self.grace = grace

    def fill(self, first: Mapping[str, Any] | None = None) -> None:
        """Write down what is missing of the ``size`` trials; ``first`` are the parameters of trial 0.

        Workers that fill at the same moment may write more; nobody claims those beyond ``size``.
        """
        known = len(self.study.get_trials(deepcopy=False))
        for number in range(known, self.size):
            self.study.enqueue_trial(dict(first or {}) if number == 0 else {})

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Trials of the study in these states (all without any), by number."""
        found = self.study.get_trials(deepcopy=False, states=states or None)
        return [trial for trial in found if trial.number < self.size]

    @property
    def finished(self) -> int:
        """Trials that are complete, pruned or failed."""
        return sum(trial.state.is_finished() for trial in self.trials())

    def claim(self, last: Collection[int] = ()) -> int | None:
        """The number of a waiting trial that is now this worker's; None when none waits. Those of ``last`` come last."""
        for trial in sorted(self.trials(TrialState.WAITING), key=lambda trial: trial.number in last):
            if self._claim(trial._trial_id):
                self.storage.set_trial_user_attr(trial._trial_id, "worker", self.worker)
                return trial.number
        return None

    def take_again(self, number: int) -> bool:
        """Claim a trial that was taken from this worker, if nobody has it; False when somebody has, or it has ended."""
        return self._claim(self.id(number))

    def trial(self, number: int) -> optuna.Trial:
        """A claimed trial, to draw values from the study's present sampler."""
        return optuna.Trial(self.study, self.id(number))

    def id(self, number: int) -> int:
        """The storage's own number of a trial."""
        return int(self.storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number))

    @contextmanager
    def alive(self, number: int) -> Iterator[None]:
        """Signs of life for a claimed trial, as long as the block runs."""
        done, trial_id = threading.Event(), self.id(number)

        def signal() -> None:
            while not done.wait(self.beat):
                try:
                    self.storage.record_heartbeat(trial_id)
                except (SQLAlchemyError, optuna.exceptions.StorageInternalError):
                    continue  # the next sign of life may get through; the trial's result decides

        thread = threading.Thread(target=signal, name=f"kdflow-trial-{number}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def put_back(self, number: int) -> bool:
        """Return a trial of this worker to the queue; False when it is not running."""
        with self.storage.engine.begin() as connection:
            return self._move(connection, self.id(number), TrialState.WAITING)

    def retry(self) -> list[int]:
        """Return failed trials to the queue, before anything else is asked of it; gives their numbers.

        The database is asked, not the study, which remembers a finished trial as it was.
        """
        mine = (TrialModel.study_id == self.study._study_id, TrialModel.state == TrialState.FAIL)
        again = []
        with self.storage.engine.begin() as connection:
            for trial_id, number in connection.execute(sa.select(TrialModel.trial_id, TrialModel.number).where(*mine)).all():
                one = sa.update(TrialModel).where(TrialModel.trial_id == trial_id, *mine)
                change = one.values(state=TrialState.WAITING, datetime_complete=None)
                if connection.execute(change.execution_options(synchronize_session=False)).rowcount == 1:
                    _keep(connection, trial_id, "lost", 0)
                    again.append(number)
        return again

    def recover(self) -> list[int]:
        """Return trials of dead workers to the queue, or fail those that were lost too often; gives their numbers."""
        known = {trial._trial_id: trial for trial in self.trials(TrialState.RUNNING)}
        return [known[i].number for i, seen in self._stale() if i in known and self._take_from_the_dead(known[i], seen)]

    def _take_from_the_dead(self, trial: FrozenTrial, seen: datetime) -> bool:
        lost = int(trial.user_attrs.get("lost", 0)) + 1
        reason = f"killed: its worker died {lost} times" if lost > 1 else "killed: its worker died"
        beyond = lost >= MAX_LOST
        with self.storage.engine.begin() as connection:
            state = TrialState.FAIL if beyond else TrialState.WAITING
            # Not "equal": SQLite compares text, and the database's own timestamps have no fraction there.
            still = TrialHeartbeatModel.heartbeat <= seen + timedelta(seconds=0.5)
            silent = sa.exists().where(TrialHeartbeatModel.trial_id == trial._trial_id, still)
            if not self._move(connection, trial._trial_id, state, silent):
                return False
            for key, value in (("lost", lost), ("reason", reason)):
                _keep(connection, trial._trial_id, key, value)
        return True

    def _claim(self, trial_id: int) -> bool:
        change = (
            sa.update(TrialModel)
            .where(TrialModel.trial_id == trial_id, TrialModel.state == TrialState.WAITING)
            .values(state=TrialState.RUNNING, datetime_start=datetime.now())
        )
        try:
            with self.storage.engine.begin() as connection:
                if connection.execute(change).rowcount != 1:
                    return False
                connection.execute(sa.delete(TrialHeartbeatModel).where(TrialHeartbeatModel.trial_id == trial_id))
                connection.execute(sa.insert(TrialHeartbeatModel).values(trial_id=trial_id))
        except SQLAlchemyError as error:
            raise KdflowError(f"the search storage did not answer: {str(error).splitlines()[0]}") from error
        return True

    def _move(self, connection: sa.Connection, trial_id: int, state: TrialState, *conditions: Any) -> bool:
        """RUNNING -> ``state``, in the transaction of ``connection``; False when it was not running any more."""
        values: dict[str, Any] = {"state": state}
        if state.is_finished():
            values["datetime_complete"] = datetime.now()
        running = (TrialModel.trial_id == trial_id, TrialModel.state == TrialState.RUNNING)
        change = sa.update(TrialModel).where(*running, *conditions).values(**values)
        changed = connection.execute(change.execution_options(synchronize_session=False))
        if changed.rowcount != 1:
            return False
        connection.execute(sa.delete(TrialHeartbeatModel).where(TrialHeartbeatModel.trial_id == trial_id))
        return True

    def _stale(self) -> list[tuple[int, datetime]]:
        """Running trials without a sign of life within the grace, and the time of their last one; by the database's clock."""
        beats = sa.select(TrialModel.trial_id, TrialHeartbeatModel.heartbeat).join(
            TrialHeartbeatModel, TrialHeartbeatModel.trial_id == TrialModel.trial_id
        )
        mine = beats.where(TrialModel.study_id == self.study._study_id, TrialModel.state == TrialState.RUNNING)
        with self.storage.engine.connect() as connection:
            now = connection.execute(sa.select(sa.func.current_timestamp(type_=sa.DateTime()))).scalar_one()
            found = connection.execute(mine).all()
        limit = now.replace(tzinfo=None) - timedelta(seconds=self.grace)
        return [(trial_id, seen) for trial_id, seen in found if seen.replace(tzinfo=None) < limit]


def _keep(connection: sa.Connection, trial_id: int, key: str, value: Any) -> None:
    """Write a user attribute inside a transaction."""
    import json

    from optuna.storages._rdb.models import TrialUserAttributeModel as Attribute

    connection.execute(sa.delete(Attribute).where(Attribute.trial_id == trial_id, Attribute.key == key))
    connection.execute(sa.insert(Attribute).values(trial_id=trial_id, key=key, value_json=json.dumps(value)))
