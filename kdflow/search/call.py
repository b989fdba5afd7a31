"""A search from Python: keyword arguments in, plain objects out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdflow.search.outcome import Outcome
from kdflow.search.request import Request
from kdflow.search.sampling import PrunerName, SamplerName
from kdflow.search.study import search as run_search
from kdflow.spec.resolve import MethodSpec


def search(
    spec: str | Path | MethodSpec,
    *,
    trials: int | None = None,
    bench: str | Path | None = None,
    include: Mapping[str, Any] | Sequence[str] = (),
    metric: str | Sequence[str] = (),
    limit: Mapping[str, float] | None = None,
    sampler: SamplerName | None = None,
    pruner: PrunerName | None = None,
    overrides: Mapping[str, Any] | None = None,
    steps: int | None = None,
    seed: int | None = None,
    timeout: float | None = None,
    storage: str | None = None,
    study: str | None = None,
    resume: bool = False,
    join: bool = False,
    together: int = 1,
    device: str = "auto",
    output: str | Path | None = None,
    write: str | Path | None = None,
    notify: Callable[[str], None] = print,
) -> Outcome:
    """Search what the spec marks ``search:``; ``kdflow search`` as a function.

        found = kdflow.search("defeat", trials=20, include={"recipe.optimizer.lr": "1e-4..1e-2,log"})
        found.best[0].values      # dotted path -> value
        found.importances, found.test, found.files

    Args:
        spec: Slug, file, or a loaded method.
        trials: Finished trials of the study in all; 20 unless told.
        bench: Name or file; none takes the method's own.
        include: Dotted path -> range (``1..16,log``, ``a,b,c``) beside the spec's, or such texts as ``PATH=RANGE``.
        metric: What trials are judged by on the validation split; several, also ``flops``, ``parameters``, ``step_ms`` or
            ``added_parameters``, give a Pareto front. The method's own ``metric:`` unless told, else AP.
        limit: Cost -> most that a trial's student may have (``flops``, ``parameters``); one that costs more is not trained.
        sampler: ``tpe`` unless told, ``nsga2`` with several metrics.
        pruner: ``median`` unless told; ``none`` with several metrics.
        overrides: Dotted path -> value in every trial.
        steps: Length of every trial.
        seed: Of every trial's run, and of the sampler.
        timeout: No trial begins after so many seconds.
        storage: Optuna database URL; none takes ``search.db`` in ``output``.
        study: Name; none is made of method and bench.
        resume: Go on with the study of this name.
        join: Begin the study, or join whoever has begun it.
        together: Up to so many trials are trained side by side, on one pass of the teacher.
        device: ``auto``, ``cpu`` or ``cuda``.
        output: Folder of runs; none takes ``$KDFLOW_RUNS``, else ``kdflow-runs``.
        write: Where to write the method with the best values filled in.
        notify: Receives a line per trial.

    Raises:
        SpecError, UsageError: Mistakes, before anything is run.
    """
    texts = [f"{path}={entry}" for path, entry in include.items()] if isinstance(include, Mapping) else list(include)
    request = Request(
        trials=trials, bench=bench, study=study, storage=storage, sampler=sampler, pruner=pruner,
        metrics=(metric,) if isinstance(metric, str) else tuple(metric),
        limits=tuple(f"{cost}={most}" for cost, most in (limit or {}).items()), include=tuple(texts),
        overrides=dict(overrides or {}), steps=steps, seed=seed, timeout=timeout, resume=resume, join=join, together=together,
        device=device, output=output, write=None if write is None else Path(write),
    )
    return run_search(spec, request, notify)
