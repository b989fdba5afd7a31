"""Runs in MLflow: an experiment per bench, a run per run, a tag per taxonomy node, numbers in batches beside the loop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdflow.errors import KdflowError, without_passwords
from kdflow.events import EvaluationEvent, PullEvent, RunEnded, RunStarted, StepEvent, WeightEvent
from kdflow.tracking.run import RunFacts, flat, is_reported, safe_name, step_metrics
from kdflow.tracking.store import experiment_id, find_runs, is_local, open_client, quiet, store_uri
from kdflow.tracking.trackers import RECORD, tracker
from kdflow.tracking.writer import Writer

__all__ = ["MlflowTracker", "RunFacts", "study_run"]

_END = {"finished": "FINISHED", "interrupted": "KILLED", "stopped": "KILLED", "failed": "FAILED"}
_PARAMS_AT_ONCE = 100
_PARAM_LENGTH = 500
_WEIGHTS = frozenset({".pt", ".pth", ".bin", ".safetensors"})
_log = logging.getLogger("kdflow.tracking")


@tracker(RECORD)
class MlflowTracker:
    """Writes one run. Making a tracker touches nothing: the store is opened when the run starts.

    A run that goes on from a checkpoint goes on in the same MLflow run, found by its hash; what the store already has of it
    is not written again. A fresh start makes a new MLflow run and marks an unfinished one of the same hash as interrupted.

    Weights stay where they are when the store lies on this machine: the tag ``kdflow.weights`` says where. A store elsewhere
    gets a copy.

    Args:
        facts: The run.
        folder: Folder of all runs, which holds the default store; none takes ``$KDFLOW_RUNS``, else ``kdflow-runs``.
        uri: The store; by default ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in ``folder``.
    """

    def __init__(self, facts: RunFacts, folder: Path | None = None, uri: str | None = None) -> None:
        self.facts = facts
        self.uri = store_uri(uri, folder)
        self._run_id = ""
        self._client: Any = None
        self._experiment = ""
        self._writer: Writer[tuple[str, float, int, int]] = Writer(self._send)
        self._reported: Mapping[str, float] = {}
        self._logged = -1
        self._evaluated = -1
        self._step = 0

    @property
    def run_id(self) -> str | None:
        """Id of the MLflow run; None before the start, and in all processes but the first."""
        return self._run_id or None

    def run_started(self, event: RunStarted) -> None:
        """Find or make the MLflow run, and write tags, parameters and the first files.

        Raises:
            KdflowError: The store cannot be opened: said before training, not after it.
        """
        with self._asking():
            self._open(resumed=event.resumed_from_step > 0)
            self._step = event.resumed_from_step
            extra = {"kdflow.folder": str(Path(event.folder).absolute()), "kdflow.status": "running"}
            if event.resumed_from_step:
                extra["kdflow.resumed_from_step"] = str(event.resumed_from_step)
            self._tag(extra)

    def weights_changed(self, event: WeightEvent) -> None:
        """Queue them as ``weight/<term>``."""
        self._queue(event.step, {f"weight/{one.term}": one.after for one in event.changes})

    def pulls_known(self, event: PullEvent) -> None:
        """Queue them as ``pull/<term>``."""
        self._queue(event.step, {f"pull/{one.term}": one.pull for one in event.pulls})

    def step_ended(self, event: StepEvent) -> None:
        """Queue the numbers of a step that the store does not have yet."""
        self._step = max(self._step, event.step)
        if event.step > self._logged:
            self._logged = event.step
            self._queue(event.step, step_metrics(event, self.facts.terms))

    def evaluation_ended(self, event: EvaluationEvent) -> None:
        """Queue the metrics under ``val/``, and start a transfer."""
        self._step = max(self._step, event.step)
        if event.step > self._evaluated:
            self._evaluated = event.step
            self._queue(event.step, {f"val/{name}": value for name, value in event.metrics.items()})
            self._writer.start()

    def run_ended(self, event: RunEnded) -> None:
        """Send what is queued. A finished training stays open for its result; every other end closes the MLflow run.

        A store that refuses is only told of: what ended the run must not be hidden by it.
        """
        if not self._run_id:
            return
        sent = self._writer.finish()
        trained = event.status == "finished"
        reason = {"kdflow.reason": without_passwords(event.reason)} if event.reason else {}
        try:
            self._tag({"kdflow.status": "trained" if trained else event.status, **reason})
            if not trained:
                self._terminate(_END.get(event.status, "FAILED"))
        except Exception as error:  # the store is foreign code
            _log.warning("the tracking store does not take how run %s ended: %s", self._run_id, _first_line(error))
        if not sent:
            _log.warning("the last numbers of run %s did not reach the tracking store", self._run_id)

    def finish(self, metrics: Mapping[str, float], artifacts: Iterable[Path] = (), split: str = "test") -> None:
        """Write the numbers that the run is reported by, under their plain names, and finish the MLflow run.

        Args:
            metrics: Metric name -> percent; values that are not finite are left out.
            artifacts: Files to keep (evaluation, weights).
            split: The images that the metrics were measured on.

        Raises:
            KdflowError: The store refuses them; the MLflow run is then not marked as finished.
        """
        with self._asking():
            self._open(resumed=True)
            known = {name: value for name, value in metrics.items() if math.isfinite(value)}
            news = {name: value for name, value in known.items() if self._reported.get(safe_name(name)) != value}
            self._queue(self._step, news)
            for path in artifacts:
                self.file(path)
            self._writer.close()
            self._tag({"kdflow.split": split, "kdflow.status": "finished"})
            self._terminate("FINISHED")

    def is_recorded(self) -> bool:
        """Whether the store has this run as finished."""
        with self._asking():
            client = open_client(self.uri)
            experiment = client.get_experiment_by_name(self.facts.bench)
            known = find_runs(client, [experiment.experiment_id], self._condition()) if experiment is not None else ()
            return any(run.info.status == "FINISHED" for run in known)

    def text(self, name: str, content: str) -> None:
        """Keep a small text as an artifact."""
        with self._asking():
            self._open(resumed=True)
            self._client.log_text(self._run_id, content, name)

    def file(self, path: Path, folder: str = "") -> None:
        """Keep a file as an artifact below ``folder``; weights as the class describes. A file that is not there is named."""
        with self._asking():
            self._open(resumed=True)
            self._keep(path, folder)

    def _keep(self, path: Path, folder: str) -> None:
        if not path.is_file():
            _log.warning("%s is not there, so it is not kept with the run", path)
            return
        weights = path.suffix in _WEIGHTS
        if weights:
            self._tag({"kdflow.weights": str(path.absolute())})
        if not (weights and is_local(self.uri)):
            self._client.log_artifact(self._run_id, str(path), folder or None)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn what the store refuses into words; it is foreign code, and raises what it likes."""
        try:
            yield
        except KdflowError:
            raise
        except Exception as error:
            raise KdflowError(
                f"the tracking store {self.uri} refuses: {_first_line(error)}. Next: see that it can be reached and "
                "written, then run the same command with --resume; nothing that was trained is lost"
            ) from error

    def _open(self, resumed: bool) -> None:
        """Attach to the MLflow run of this hash, or make one."""
        if self._run_id:
            return
        self._client = open_client(self.uri)
        self._experiment = experiment_id(self._client, self.facts.bench, self.uri)
        known = self._known_runs()
        if resumed and known:
            self._go_on(known[0])
            return
        self._create(known)
        for path in self.facts.artifacts:
            self.file(path)

    def _known_runs(self) -> list[Any]:
        if not self.facts.run_hash:
            return []
        return list(find_runs(self._client, [self._experiment], self._condition()))

    def _condition(self) -> str:
        return f"tags.`kdflow.run_hash` = '{self.facts.run_hash}'"

    def _go_on(self, run: Any) -> None:
        self._run_id = run.info.run_id
        self._client.update_run(self._run_id, status="RUNNING")
        validation = [name for name in run.data.metrics if name.startswith("val/")]
        self._logged = self._last_step("loss/total")
        self._evaluated = max(map(self._last_step, validation), default=-1)
        self._step = max(self._logged, self._evaluated, 0)
        self._reported = {name: value for name, value in run.data.metrics.items() if is_reported(name)}

    def _last_step(self, metric: str) -> int:
        history = self._client.get_metric_history(self._run_id, metric)
        return max((entry.step for entry in history), default=-1)

    def _create(self, known: Iterable[Any]) -> None:
        for run in known:
            if run.info.status in {"RUNNING", "SCHEDULED"}:
                self._client.set_tag(run.info.run_id, "kdflow.status", "interrupted")
                self._client.set_terminated(run.info.run_id, "KILLED")
        facts = self.facts
        nested = {"mlflow.parentRunId": facts.parent} if facts.parent else {}
        name = f"{facts.method} seed {facts.seed}" + (f" ({facts.variant})" if facts.variant else "")
        tags = {safe_name(key): value for key, value in {**facts.tags(), **nested}.items()}
        self._run_id = self._client.create_run(self._experiment, tags=tags, run_name=name[:250]).info.run_id
        self._write_params()

    def _write_params(self) -> None:
        with quiet():
            from mlflow.entities import Param
        leaves = {**flat(self.facts.spec), **flat(self.facts.params), "seed": str(self.facts.seed)}
        params = [Param(safe_name(key), value[:_PARAM_LENGTH]) for key, value in leaves.items() if key]
        for first in range(0, len(params), _PARAMS_AT_ONCE):
            self._client.log_batch(self._run_id, params=params[first:first + _PARAMS_AT_ONCE])

    def _queue(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self._writer.add([(safe_name(name), float(value), now, step) for name, value in values.items()])

    def _send(self, values: Sequence[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        self._client.log_batch(self._run_id, metrics=[Metric(*value) for value in values])

    def _tag(self, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self._client.set_tag(self._run_id, safe_name(key), value)

    def _terminate(self, status: str) -> None:
        self._client.set_terminated(self._run_id, status)


def _first_line(error: BaseException) -> str:
    return without_passwords((str(error) or type(error).__name__).splitlines()[0])


def study_run(bench: str, study: str, folder: Path | None = None, uri: str | None = None) -> str:
    """MLflow id of the run that the trials of a search are nested in; made by whoever comes first.

    Args:
        bench: The bench, whose experiment holds it.
        study: Name of the search.
        folder: Folder of all runs; see :class:`MlflowTracker`.
        uri: The store.
    """
    return parent_run(bench, study, "study", folder, uri)


def parent_run(bench: str, name: str, kind: str, folder: Path | None = None, uri: str | None = None) -> str:
    """MLflow id of the run that others are nested in, by its name; made where it is not there.

    Args:
        bench: The bench, whose experiment holds it.
        name: What it is found by.
        kind: ``study``, ``sweep``, ``ablation`` or ``comparison``.
        folder: Folder of all runs; see :class:`MlflowTracker`.
        uri: The store.
    """
    place = store_uri(uri, folder)
    client = open_client(place)
    experiment = experiment_id(client, bench, place)
    quoted = name.replace("'", "_")
    known = list(find_runs(client, [experiment], f"tags.`kdflow.{kind}` = '{quoted}'", newest_first=False))
    if known:
        return str(known[0].info.run_id)
    shown = f"search {name}" if kind == "study" else name
    tags = {f"kdflow.{kind}": quoted, "kind": kind}
    made = str(client.create_run(experiment, tags=tags, run_name=shown[:250]).info.run_id)
    if kind != "study":  # nothing of its own will be written to it
        client.set_terminated(made, "FINISHED")
    return made


def nest(parent: str, run_id: str, folder: Path | None = None, uri: str | None = None) -> None:
    """Show a run inside another one; of a run that is in several sweeps, the last one counts."""
    open_client(store_uri(uri, folder)).set_tag(run_id, "mlflow.parentRunId", parent)
