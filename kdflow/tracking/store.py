"""The MLflow store: where it is, how it is opened without noise, and how runs are read back from it."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kdflow.errors import KdflowError, MissingPackageError
from kdflow.tracking.lock import alone
from kdflow.tracking.run import StoredRun

PAGE = 500
STATUSES: Mapping[str, str] = {
    "FINISHED": "finished", "FAILED": "failed", "KILLED": "interrupted", "RUNNING": "running", "SCHEDULED": "running",
}


def runs_folder() -> Path:
    """Folder of run outputs and of the default store: ``kdflow-runs`` in the current directory, or ``$KDFLOW_RUNS``."""
    return Path(os.environ.get("KDFLOW_RUNS") or "kdflow-runs").absolute()


def store_uri(uri: str | None = None, folder: Path | None = None) -> str:
    """The store to use: ``uri``, else ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in ``folder`` or the runs folder."""
    default = (folder or runs_folder()).absolute() / "mlflow.db"
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{default}"


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite store, None for every other store."""
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    return Path(path) if uri.startswith("sqlite:///") and path else None


def is_local(uri: str) -> bool:
    """True when the store lies on this machine, so that a path is as good as a copy."""
    return uri.startswith(("sqlite:", "file:")) or "://" not in uri


@contextmanager
def quiet() -> Iterator[None]:
    """Without MLflow's telemetry, start-up messages, and deprecation warnings of the packages below it."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
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
    file = sqlite_file(uri)
    with quiet():
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise MissingPackageError("tracking needs MLflow: pip install mlflow") from error
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            with alone(file) if file is not None else nullcontext():  # MLflow makes its tables without regard for others
                client = MlflowClient(tracking_uri=uri)
                client.search_experiments(max_results=1)
        except Exception as error:
            raise KdflowError(f"the tracking store {uri} cannot be opened: {_first_line(error)}") from error
    return client


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
    place = None if file is None else (file.absolute().parent / "artifacts" / bench).as_uri()
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
    """Runs that kdflow wrote, oldest first.

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
    client = open_client(place)
    wanted = set(benches)
    experiments = [e.experiment_id for e in _experiments(client) if not wanted or e.name in wanted]
    condition = "tags.method LIKE '%'" if unfinished else "tags.method LIKE '%' AND attributes.status = 'FINISHED'"
    runs = (stored_run(run) for run in find_runs(client, experiments, condition, newest_first=False))
    kinds = {"run", "trial"} if trials else {"run"}
    return [run for run in runs if run.tags.get("kind") in kinds and "kdflow.run_hash" in run.tags]


def _experiments(client: Any) -> Iterator[Any]:
    token: str | None = None
    while True:
        page = client.search_experiments(max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def stored_run(run: Any) -> StoredRun:
    """An MLflow run in kdflow's form."""
    tags = dict(run.data.tags)
    status = tags.get("kdflow.status") or STATUSES.get(run.info.status, run.info.status.lower())
    started = datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(timespec="milliseconds")
    return StoredRun(run.info.run_id, status, started, tags, dict(run.data.metrics))


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
