"""What Python code and notebooks call; :mod:`kdflow` exports these names."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdflow.errors import UsageError
from kdflow.folders import runs_folder
from kdflow.notebook import with_bars
from kdflow.urls import sqlite_url

if TYPE_CHECKING:
    from kdflow.experiment.run import run
    from kdflow.graph.plan import Plan
    from kdflow.results.query import Answer
    from kdflow.search.call import search
    from kdflow.spec.resolve import MethodSpec
    from kdflow.using.look.write import look
    from kdflow.using.predict import Prediction

_PLACES = {"look": "kdflow.using.look.write", "run": "kdflow.experiment.run", "search": "kdflow.search.call"}


def __getattr__(name: str) -> Any:
    """What trains is loaded when it is asked for: questions to the results need neither torch nor MLflow."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__} has no name {name!r}")
    found = getattr(importlib.import_module(_PLACES[name]), name)
    return with_bars(found) if name == "run" else found


def load(name: str | Path) -> MethodSpec:
    """A method: a file, or the slug of one that comes with kdflow.

    The files in its ``plugins:`` are imported. ``load(...).resolve()`` gives the checked :class:`~kdflow.spec.method.Method`.

    Raises:
        SpecError: With every fault of the file.
        UsageError: There is no such method; the message lists those there are.
    """
    from kdflow.experiment.reading import read_method

    return read_method(name)


def compile(
    spec: str | Path | MethodSpec,
    bench: str | Path | None = None,
    values: Mapping[str, Any] | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    **options: Any,
) -> Plan:
    """The plan of a method: one ``torch.nn.Module``, on the detectors of a bench or on given values.

    With a bench, ``plan(batch)`` gives named terms, and no weights or data are read. With ``values``, no detector is needed:
    ``plan.evaluate({})`` gives the terms for these values, ``plan.evaluate({"student.neck": other})`` for others.

    Args:
        spec: Slug, file, or a loaded method.
        bench: Name or file of a bench; none takes the method's own (unless there are values).
        values: Reference as written in the spec (``student.neck``, ``shared.logits``, ``targets.boxes``) -> value.
        overrides: Dotted path of method or bench -> value.
        seed: Seed of initial weights and random streams.
        options: With values only: ``families`` (owner -> family), ``strides`` (reference -> strides of a pyramid), ``kinds``
            (reference -> word for its kind, such as ``mask``, where the spec does not say it), ``detectors`` (owner -> detector,
            where the method calls stages), ``context`` (what its variants ask). The detector's own losses are left out.

    Raises:
        SpecError: With every fault of method and bench.
        UsageError: An unknown option, or one that does not fit the values.
    """
    from kdflow.experiment.reading import read_method
    from kdflow.experiment.setup import prepare
    from kdflow.spec.resolve import MethodSpec

    method = spec if isinstance(spec, MethodSpec) else read_method(spec)
    if values is None:
        if options:
            raise UsageError(f"{', '.join(options)}: only with values=")
        return prepare(method, bench, overrides=overrides, seed=seed).plan
    if bench is not None:
        raise UsageError("give either a bench or values")
    from kdflow.graph.compile import compile_given

    resolved = method.resolve(options.pop("context", None), overrides)
    return compile_given(resolved, method.document, values, seed=seed, **options)


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
    from kdflow.results.measured import read_records
    from kdflow.results.published import published_records
    from kdflow.results.query import query

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
    from kdflow.results.report import write_report

    return write_report(Path(folder), _uri(store), where, against, metric, ablations)


def predict(
    run: str | Path,
    *paths: str | Path,
    output: str | Path | None = None,
    threshold: float = 0.5,
    owner: str = "student",
    device: str = "auto",
) -> list[Prediction]:
    """What a trained student finds in pictures, which are treated as in its evaluation.

    Args:
        run: A run's folder or name, an ONNX file, or another export; the code of a folder with ``student.py`` is run.
        paths: Images, folders of images, videos (where ``av`` or ``opencv`` is installed).
        output: Folder for drawn pictures and ``predictions.json``; none writes nothing.
        threshold: Detections have more than this score.
        owner: ``student``, or the name of a teacher of the run.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UsageError: A run or file that cannot be read, no path at all, or a threshold outside 0..1.
    """
    from kdflow.using.predict import predictions

    return list(predictions(run, paths, output, threshold, owner, device))


def _uri(store: str | Path | None) -> str | None:
    if isinstance(store, str) and "://" in store:
        return store
    return None if store is None else sqlite_url(runs_folder(store) / "mlflow.db")


__all__ = ["compile", "load", "look", "predict", "report", "results", "run", "search"]
