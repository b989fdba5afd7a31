"""Optuna's own plots and importances, where the packages that they need are installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState


def importances_of(study: optuna.Study, metrics: Sequence[str]) -> dict[str, float]:
    """Dotted path -> share of the first metric's variation; empty where trials are too few or alike to tell."""
    target = None if len(metrics) == 1 else _first
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len({trial.values[0] for trial in complete}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = optuna.importance.get_param_importances(
                study, evaluator=optuna.importance.PedAnovaImportanceEvaluator(), target=target
            )
        except (ValueError, RuntimeError):
            return {}
    return {path: float(value) for path, value in found.items()}


def draw(study: optuna.Study, metrics: Sequence[str], folder: Path, notes: list[str]) -> list[Path]:
    """History, parallel coordinates, importances, and for several metrics the Pareto front.

    Interactive pages with plotly, else pictures with matplotlib, else nothing and a note.

    Args:
        study: The study.
        metrics: Objectives.
        folder: Where the files go.
        notes: Receives what could not be drawn.
    """
    backend, ending = _backend()
    if backend is None:
        notes.append("no plots: they need plotly or matplotlib (pip install plotly)")
        return []
    several = len(metrics) > 1
    options: dict[str, Any] = {"target": _first, "target_name": metrics[0]} if several else {"target_name": metrics[0]}
    wanted: list[tuple[str, Callable[..., Any], dict[str, Any]]] = [
        ("history", backend.plot_optimization_history, options),
        ("parallel", backend.plot_parallel_coordinate, options),
        ("importances", backend.plot_param_importances, {**options, "evaluator": _evaluator()}),
    ]
    if several:
        wanted.append(("front", backend.plot_pareto_front, {"target_names": list(metrics)}))
    files = []
    for name, plot, arguments in wanted:
        file = folder / f"{name}.{ending}"
        problem = _save(plot, study, arguments, file)
        if problem:
            notes.append(f"no plot of the {name}: {problem}")
        else:
            files.append(file)
    return files


def _save(plot: Callable[..., Any], study: optuna.Study, arguments: dict[str, Any], file: Path) -> str:
    """Draw into a file; gives the problem in words, empty when there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            figure = plot(study, **arguments)
            if file.suffix == ".html":
                figure.write_html(str(file))
            else:
                _save_picture(figure, file)
        except Exception as error:  # Optuna's plots refuse studies in many ways; a search is not lost with a picture
            return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ""


def _save_picture(axes: Any, file: Path) -> None:
    from matplotlib import pyplot

    figure = (axes if hasattr(axes, "figure") else axes.flat[0]).figure
    figure.savefig(file, dpi=120, bbox_inches="tight")
    pyplot.close(figure)


def _backend() -> tuple[Any, str]:
    """Optuna's plotting module and the ending of its files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if optuna.visualization.is_available():
            return optuna.visualization, "html"
        from optuna.visualization import matplotlib

        return (matplotlib, "png") if matplotlib.is_available() else (None, "")


def _evaluator() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.importance.PedAnovaImportanceEvaluator()


def _first(trial: optuna.trial.FrozenTrial) -> float:
    return float(trial.values[0])


