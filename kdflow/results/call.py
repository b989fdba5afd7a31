"""Questions to the results from Python; torch and MLflow are not loaded for them."""

from __future__ import annotations

from pathlib import Path

from kdflow.folders import runs_folder
from kdflow.results.measured import read_records
from kdflow.results.published import published_records
from kdflow.results.query import Answer, query
from kdflow.results.report import write_report
from kdflow.urls import sqlite_url


def results(
    by: str = "taxonomy",
    where: str = "",
    *,
    published: bool = False,
    against: str = "baseline",
    metric: str = "AP",
    ablations: bool = False,
    unfinished: bool = False,
    trials: bool = False,
    store: str | Path | None = None,
) -> Answer:
    """What was measured, and on request what was published, grouped; ``kdflow.results.table.render`` writes it down.

    Args:
        by: ``taxonomy``, ``method``, ``bench``, ``family`` or ``knowledge``.
        where: A filter such as ``"bench ~ 'shapes-*' and node = 'cnn'"`` (:mod:`kdflow.results.where`).
        published: Also list the literature's numbers. Without it they only state the published gain beside a measured one.
        against: The method that measured gains are counted from.
        metric: Orders the lines; gains are summed up in it.
        ablations: List published rows that take a method apart, too.
        unfinished: Also runs that are running, failed or were interrupted.
        trials: Also trials of searches.
        store: Folder of runs, or an MLflow URI; none takes ``MLFLOW_TRACKING_URI``, else the folder of ``$KDFLOW_RUNS`` or
            ``kdflow-runs``.

    Raises:
        UsageError: An unknown ``by`` or ``metric``, or a filter that cannot be read.
    """
    records = [*read_records(_uri(store), unfinished=unfinished, trials=trials), *published_records()]
    if not published:
        where = f"({where}) and origin = 'measured'" if where.strip() else "origin = 'measured'"
    return query(records, by, where, against, metric, ablations)


def report(
    folder: str | Path,
    where: str = "",
    *,
    against: str = "baseline",
    metric: str = "AP",
    ablations: bool = False,
    store: str | Path | None = None,
) -> Path:
    """Write ``index.html`` into ``folder``: one page with all results, without script and without network; returns its path.

    Args:
        folder: It is made where it is not there.
        where: As in :func:`results`; for measured and published records.
        against: As in :func:`results`.
        metric: As in :func:`results`.
        ablations: As in :func:`results`.
        store: As in :func:`results`.

    Raises:
        UsageError: An unknown metric, or a filter that cannot be read.
        KdflowError: The store cannot be opened.
    """
    return write_report(Path(folder), _uri(store), where, against, metric, ablations)


def _uri(store: str | Path | None) -> str | None:
    if isinstance(store, str) and "://" in store:
        return store
    return None if store is None else sqlite_url(runs_folder(store) / "mlflow.db")
