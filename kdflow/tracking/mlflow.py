"""Runs in MLflow: an experiment per bench, a run per run, a tag per taxonomy node, numbers in batches beside the loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdflow.tracking.run import End, Event, RunInfo, Scores, Start, flat, safe_name, step_metrics
from kdflow.tracking.store import experiment_id, find_runs, is_local, open_client, quiet, store_uri
from kdflow.tracking.writer import Writer

_END = {"finished": "FINISHED", "interrupted": "KILLED", "stopped": "KILLED", "failed": "FAILED"}
_PARAMS_AT_ONCE = 100
_PARAM_LENGTH = 500


class MlflowTracker:
    """Writes one run.

    A run that goes on from a checkpoint goes on in the same MLflow run, found by its hash; what the store already has of it
    is not written again. A fresh start makes a new MLflow run and marks an unfinished one of the same hash as interrupted.

    Files and texts that are handed over before the run starts are kept until it does.

    Args:
        info: The run.
        uri: The store; by default ``MLFLOW_TRACKING_URI``, else SQLite in the runs folder.
        parent: MLflow id of the run that this one is nested in (a search).

    Raises:
        KdflowError: The store cannot be opened: said at once, not after training.
    """

    def __init__(self, info: RunInfo, uri: str | None = None, parent: str = "") -> None:
        self.info = info
        self.uri = store_uri(uri)
        self._parent = parent
        self._client = open_client(self.uri)
        with quiet():
            from mlflow.entities import Metric, Param
        self._metric: Callable[..., Any] = Metric
        self._param: Callable[..., Any] = Param
        self._experiment = experiment_id(self._client, info.bench, self.uri)
        self._run_id = ""
        self._reported: Mapping[str, float] = {}
        self._writer: Writer[Any] = Writer(self._send)
        self._later: list[Callable[[], None]] = []
        self._logged = -1
        self._evaluated = -1
        self._step = 0

    @property
    def run_id(self) -> str:
        """Id of the MLflow run; empty before the start."""
        return self._run_id

    def run_started(self, event: Start) -> None:
        """Find or make the MLflow run, and write tags and parameters."""
        self._open(resumed=event.resumed_from_step > 0)
        self._step = event.resumed_from_step
        extra = {"kdflow.folder": str(event.folder), "kdflow.status": "running"}
        if event.resumed_from_step:
            extra["kdflow.resumed_from_step"] = str(event.resumed_from_step)
        self._tag(extra)

    def step_ended(self, event: Event) -> None:
        """Queue the numbers of a step that the store does not have yet."""
        self._step = max(self._step, event.step)
        if event.step > self._logged:
            self._logged = event.step
            self._queue(event.step, step_metrics(event, self.info.terms))

    def evaluation_ended(self, event: Scores) -> None:
        """Queue the metrics under ``val/``, and start a transfer."""
        self._step = max(self._step, event.step)
        if event.step > self._evaluated:
            self._evaluated = event.step
            self._queue(event.step, {f"val/{name}": value for name, value in event.metrics.items()})
            self._writer.start()

    def run_ended(self, event: End) -> None:
        """Send what is queued. A finished training stays open for its result; every other end closes the MLflow run."""
        self._open(resumed=True)
        self._writer.finish()
        reason = {"kdflow.reason": event.reason} if event.reason else {}
        if event.status == "finished":
            self._tag({"kdflow.status": "trained", **reason})
        else:
            self._tag({"kdflow.status": event.status, **reason})
            self._terminate(_END.get(event.status, "FAILED"))

    def result(self, metrics: Mapping[str, float], split: str = "test") -> None:
        """Write the numbers that the run is reported by, under their plain names, and finish the MLflow run.

        Args:
            metrics: Metric name -> percent; values that are not finite are left out.
            split: The images they were measured on.

        Raises:
            KdflowError: The store refuses them; the MLflow run is then not marked as finished.
        """
        self._open(resumed=True)
        known = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self._queue(self._step, {name: value for name, value in known.items() if self._reported.get(name) != value})
        if not self._writer.finish():
            self._writer.close()
        self._tag({"kdflow.split": split, "kdflow.status": "finished"})
        self._terminate("FINISHED")

    def text(self, name: str, content: str) -> None:
        """Keep a text file as an artifact."""
        self._when_open(lambda: self._client.log_text(self._run_id, content, name))

    def file(self, path: Path, folder: str = "") -> None:
        """Keep a file as an artifact below ``folder``."""
        self._when_open(lambda: self._client.log_artifact(self._run_id, str(path), folder or None))

    def weights(self, path: Path) -> None:
        """Say where the weights lie; a store on another machine gets a copy."""
        self._when_open(lambda: self._tag({"kdflow.weights": str(path.absolute())}))
        if not is_local(self.uri):
            self.file(path, "weights")

    def close(self) -> None:
        """Send the rest; raises KdflowError when the store refuses it."""
        if self._run_id:
            self._writer.close()

    def _open(self, resumed: bool) -> None:
        """Attach to the MLflow run of this hash, or make one."""
        if self._run_id:
            return
        known = self._known_runs()
        if resumed and known:
            self._go_on(known[0])
        else:
            self._create(known)
        waiting, self._later = self._later, []
        for action in waiting:
            action()

    def _go_on(self, run: Any) -> None:
        self._run_id = run.info.run_id
        self._client.update_run(self._run_id, status="RUNNING")
        validation = [name for name in run.data.metrics if name.startswith("val/")]
        self._logged = self._last_step("loss/total")
        self._evaluated = max(map(self._last_step, validation), default=-1)
        self._step = max(self._logged, self._evaluated, 0)
        self._reported = {name: value for name, value in run.data.metrics.items() if "/" not in name}

    def _known_runs(self) -> list[Any]:
        if not self.info.run_hash:
            return []
        condition = f"tags.`kdflow.run_hash` = '{self.info.run_hash}'"
        return list(find_runs(self._client, [self._experiment], condition))

    def _create(self, known: Iterable[Any]) -> None:
        for run in known:
            if run.info.status in {"RUNNING", "SCHEDULED"}:
                self._client.set_tag(run.info.run_id, "kdflow.status", "interrupted")
                self._client.set_terminated(run.info.run_id, "KILLED")
        nested = {"mlflow.parentRunId": self._parent} if self._parent else {}
        name = f"{self.info.method} seed {self.info.seed}" + (f" ({self.info.variant})" if self.info.overrides else "")
        tags = {safe_name(key): value for key, value in {**self.info.tags(), **nested}.items()}
        self._run_id = self._client.create_run(self._experiment, tags=tags, run_name=name[:250]).info.run_id
        self._write_params()

    def _write_params(self) -> None:
        leaves = {**flat(self.info.spec), "seed": str(self.info.seed)}
        params = [self._param(safe_name(key), value[:_PARAM_LENGTH]) for key, value in leaves.items() if key]
        for first in range(0, len(params), _PARAMS_AT_ONCE):
            self._client.log_batch(self._run_id, params=params[first:first + _PARAMS_AT_ONCE])

    def _last_step(self, metric: str) -> int:
        history = self._client.get_metric_history(self._run_id, metric)
        return max((entry.step for entry in history), default=-1)

    def _queue(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self._writer.add([self._metric(safe_name(name), float(value), now, step) for name, value in values.items()])

    def _send(self, values: Sequence[Any]) -> None:
        self._client.log_batch(self._run_id, metrics=list(values))

    def _tag(self, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self._client.set_tag(self._run_id, safe_name(key), value)

    def _terminate(self, status: str) -> None:
        self._client.set_terminated(self._run_id, status)

    def _when_open(self, action: Callable[[], None]) -> None:
        if self._run_id:
            action()
        else:
            self._later.append(action)


def study_run(bench: str, study: str, uri: str | None = None) -> str:
    """MLflow id of the run that the trials of a search are nested in; made by whoever comes first.

    Args:
        bench: The bench, whose experiment holds it.
        study: Name of the search.
        uri: The store.
    """
    place = store_uri(uri)
    client = open_client(place)
    experiment = experiment_id(client, bench, place)
    quoted = study.replace("'", "_")
    known = list(find_runs(client, [experiment], f"tags.`kdflow.study` = '{quoted}'", newest_first=False))
    if known:
        return str(known[0].info.run_id)
    tags = {"kdflow.study": quoted, "kind": "study"}
    return str(client.create_run(experiment, tags=tags, run_name=f"search {study}"[:250]).info.run_id)
