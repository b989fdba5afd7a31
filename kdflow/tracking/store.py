"""The MLflow store: where it is, how it is opened without noise, and how runs are read back from it."""

from __future__ import annotations

import logging
import os
import sqlite3
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kdflow.errors import KdflowError, MissingPackageError
from kdflow.files import in_words
from kdflow.folders import runs_folder, slug
from kdflow.tracking import tables
from kdflow.tracking.lock import alone
from kdflow.tracking.run import StoredRun, stored
from kdflow.urls import require_answer, sqlite_file, sqlite_url

__all__ = ["runs_folder", "sqlite_file", "sqlite_url"]

PAGE = 500


def store_uri(uri: str | None = None, folder: Path | None = None) -> str:
    """The store to use: ``uri``, else ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in ``folder`` or the runs folder."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or sqlite_url(runs_folder(folder) / "mlflow.db")


def is_local(uri: str) -> bool:
    """True when the store lies on this machine, so that a path is as good as a copy."""
    return uri.startswith(("sqlite", "file:")) or "://" not in uri


@contextmanager
def quiet() -> Iterator[None]:
    """Without MLflow's telemetry, start-up messages, and deprecation warnings of the packages below it."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # A server that fell silent is asked again for half a minute, not for five; what it did not take is kept and sent later.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = [logger.level for logger in loggers]
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


def open_client(uri: str) -> Any:
    """An ``MlflowClient`` of the store; a SQLite file is made if it is not there.

    Raises:
        MissingPackageError: MLflow is not installed.
        KdflowError: The store cannot be opened.
    """
    require_answer(uri, "the tracking store")
    file = sqlite_file(uri)
    if file is not None:
        _try(file, uri)
    with quiet():
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise MissingPackageError("tracking needs MLflow: pip install mlflow") from error
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            with alone(file) if file is not None else nullcontext():  # MLflow makes its tables without regard for others
                if file is not None and not file.stat().st_size:
                    _make(file)
                client = MlflowClient(tracking_uri=uri)
                client.search_experiments(max_results=1)
        except Exception as error:
            raise KdflowError(f"the tracking store {uri} cannot be opened: {_first_line(error)}") from error
    return client


def _make(file: Path) -> None:
    """Make the tables beside and put them in place at once: MLflow does not go on with tables that a kill left half made."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    draft = file.with_name(f".new.{file.name}")
    for left in file.parent.glob(f"{draft.name}*"):
        left.unlink()
    store = SqlAlchemyStore(sqlite_url(draft), str(file.parent / "mlruns"))
    store.engine.dispose()
    os.replace(draft, file)


def _try(file: Path, uri: str) -> None:
    """Open a SQLite file as MLflow will, which tries for minutes where that fails; raises KdflowError."""
    with in_words(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        raise KdflowError(f"the tracking store {uri} cannot be opened: {error}") from error


def require_store(folder: Path | None = None, uri: str | None = None) -> None:
    """See that the store takes what a run will write, before anything long begins.

    Args:
        folder: Folder of all runs.
        uri: The store; see :func:`store_uri`.

    Raises:
        KdflowError: It does not answer, cannot be opened, or cannot be written.
    """
    place = store_uri(uri, folder)
    open_client(place)
    if (file := sqlite_file(place)) is not None:
        try:
            with closing(sqlite3.connect(file, timeout=60)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("CREATE TABLE kdflow_probe (never INTEGER)")
                connection.rollback()
        except sqlite3.Error as error:
            raise KdflowError(f"the tracking store {place} cannot be written: {error}") from error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def experiment_id(client: Any, bench: str, uri: str) -> str:
    """Id of the bench's experiment, made if it is not there; artifacts of a SQLite store lie beside it."""
    found = client.get_experiment_by_name(bench)
    if found is not None:
        if found.lifecycle_stage != "active":
            raise KdflowError(f'the MLflow experiment "{bench}" was deleted; restore it, or remove it with "mlflow gc"')
        return str(found.experiment_id)
    file = sqlite_file(uri)
    place = None if file is None else (file.absolute().parent / "artifacts" / slug(bench)).as_uri()
    try:
        return str(client.create_experiment(bench, artifact_location=place, tags={"kdflow.bench": bench}))
    except Exception:  # another process may have made it in between
        found = client.get_experiment_by_name(bench)
        if found is None:
            raise
        return str(found.experiment_id)


def find_runs(client: Any, experiments: Sequence[str], condition: str, newest_first: bool = True) -> Iterator[Any]:
    """MLflow runs of these experiments that meet an MLflow filter, over all pages."""
    order = ["attributes.start_time DESC" if newest_first else "attributes.start_time ASC"]
    token: str | None = None
    while experiments:
        page = client.search_runs(list(experiments), condition, max_results=PAGE, order_by=order, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def read_runs(
    uri: str | None = None, benches: Iterable[str] = (), unfinished: bool = False, trials: bool = False
) -> list[StoredRun]:
    """Runs that kdflow wrote, oldest first, with the numbers that they are reported by (not those of single steps).

    Args:
        uri: The store; see :func:`store_uri`. A SQLite file that is not there holds no runs.
        benches: Only these benches; none means all.
        unfinished: Also runs that are running, failed, stopped or were interrupted.
        trials: Also trials of searches.

    Raises:
        KdflowError: The store cannot be opened.
    """
    place = store_uri(uri)
    file = sqlite_file(place)
    if file is not None and not file.is_file():
        return []
    require_answer(place, "the tracking store")
    kinds, wanted = {"run", "trial"} if trials else {"run"}, set(benches)
    found = tables.read(place, wanted, unfinished) if tables.is_readable(place) else None
    runs = _asked(open_client(place), wanted, unfinished) if found is None else found
    return [run for run in runs if run.tags.get("kind") in kinds and "kdflow.run_hash" in run.tags]


def _asked(client: Any, benches: Collection[str], unfinished: bool) -> Iterator[StoredRun]:
    """Runs as the store's own interface gives them, with everything that it knows of each."""
    experiments = [e.experiment_id for e in _experiments(client) if not benches or e.name in benches]
    condition = "tags.method LIKE '%'" if unfinished else "tags.method LIKE '%' AND attributes.status = 'FINISHED'"
    for run in find_runs(client, experiments, condition, newest_first=False):
        yield stored(run.info.run_id, run.info.status, run.info.start_time, dict(run.data.tags), run.data.metrics)


def _experiments(client: Any) -> Iterator[Any]:
    token: str | None = None
    while True:
        page = client.search_experiments(max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


Curve = tuple[tuple[int, float], ...]


def read_curves(client: Any, run_id: str, names: Iterable[str]) -> dict[str, Curve]:
    """Metric -> (step, value) in the order of steps; of a step that was written twice, the later value."""
    curves = {name: {m.step: m.value for m in client.get_metric_history(run_id, name)} for name in names}
    return {name: tuple(sorted(curve.items())) for name, curve in curves.items()}


def read_texts(client: Any, run_id: str, names: Iterable[str]) -> dict[str, str]:
    """Artifact -> its text, for those of the named ones that the run has."""
    with quiet(), TemporaryDirectory() as folder:
        present = {entry.path for entry in client.list_artifacts(run_id)}
        found = {name: client.download_artifacts(run_id, name, folder) for name in names if name in present}
        return {name: Path(file).read_text(encoding="utf-8") for name, file in found.items()}
