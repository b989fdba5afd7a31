"""Many runs read from an MLflow database at once: only the tags and numbers that results are made of, page by page.

MLflow's own interface hands over all parameters and all metrics of every run, which takes minutes for thousands of runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kdflow.tracking.run import StoredRun, stored

if TYPE_CHECKING:
    from sqlalchemy import Connection

PAGE = 500
_RUNS = """
    SELECT runs.run_uuid, runs.status, runs.start_time, experiments.name FROM runs
    JOIN experiments ON experiments.experiment_id = runs.experiment_id
    JOIN tags ON tags.run_uuid = runs.run_uuid AND tags.key = 'method'
    WHERE runs.lifecycle_stage = 'active' AND experiments.lifecycle_stage = 'active'
    ORDER BY runs.start_time, runs.run_uuid
"""
_TAGS = """
    SELECT run_uuid, key, value FROM tags
    WHERE run_uuid IN :runs AND (key NOT LIKE 'mlflow.%' OR key = 'mlflow.parentRunId')
"""
_METRICS = """
    SELECT run_uuid, key, value FROM latest_metrics
    WHERE run_uuid IN :runs AND NOT is_nan AND (key NOT LIKE '%/%' OR key LIKE 'test/%')
"""


def is_readable(uri: str) -> bool:
    """True for stores that are databases, whose tables have kept their form since MLflow has them."""
    return urlsplit(uri).scheme.partition("+")[0] in ("sqlite", "postgresql", "postgres")


def read(uri: str, benches: Collection[str], unfinished: bool) -> list[StoredRun] | None:
    """Runs of an MLflow database, oldest first; None where its tables cannot be read like this.

    Args:
        uri: Of the database.
        benches: Names of experiments; none takes all.
        unfinished: Also runs that did not finish.
    """
    import sqlalchemy as sa

    try:
        engine = sa.create_engine(uri)
    except (sa.exc.SQLAlchemyError, ImportError):
        return None
    try:
        with engine.connect() as connection:
            rows = connection.execute(sa.text(_RUNS)).all()
            chosen = [row for row in rows if (not benches or row[3] in benches) and (unfinished or row[1] == "FINISHED")]
            pages = (chosen[first:first + PAGE] for first in range(0, len(chosen), PAGE))
            return [run for page in pages for run in _page(connection, page)]
    except sa.exc.SQLAlchemyError:
        return None
    finally:
        engine.dispose()


def _page(connection: Connection, rows: Sequence[Any]) -> Iterator[StoredRun]:
    ids = [row[0] for row in rows]
    tags, metrics = _grouped(connection, _TAGS, ids), _grouped(connection, _METRICS, ids)
    for run_id, status, start_time, _ in rows:
        yield stored(run_id, status, start_time, tags[run_id], metrics[run_id])


def _grouped(connection: Connection, query: str, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Run -> key -> value. Words that many runs share are kept once."""
    import sqlalchemy as sa

    found: dict[str, dict[str, Any]] = defaultdict(dict)
    words: dict[Any, Any] = {}
    chosen = sa.text(query).bindparams(sa.bindparam("runs", expanding=True))
    for run_id, key, value in connection.execute(chosen, {"runs": list(ids)}):
        found[run_id][words.setdefault(key, key)] = words.setdefault(value, value)
    return found
