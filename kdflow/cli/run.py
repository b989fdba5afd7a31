"""``kdflow run``: declare, check, compile, train, evaluate, record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdflow.cli.console import is_first, note, say, say_json
from kdflow.cli.options import BenchOption, JsonOption, Output, SetOption, Specs, overrides_of
from kdflow.errors import InvariantError

if TYPE_CHECKING:
    from kdflow.experiment.result import RunResult

Together = Annotated[
    bool,
    typer.Option(
        "--together", help="Train all at once: one stream of batches, one pass of the teacher, equal results."
    ),
]
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="NAME",
        help="Write the run to tensorboard or wandb too, beside MLflow; without it $KDFLOW_TRACKERS. Repeatable.",
    ),
]
Precision = Annotated[str | None, typer.Option(help="fp32, bf16 or fp16; without it the recipe's.")]


def run(
    specs: Specs,
    bench: BenchOption = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of initial weights, data order and every random draw; without it 0, or that of a run.yaml."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Length of the run; without it the recipe's.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda; CUDA_VISIBLE_DEVICES chooses among GPUs.")] = "auto",
    precision: Precision = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="torch.compile for what is dense; pays on GPUs only.")
    ] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Set the weights when the run begins, by each term's share of the gradient.")
    ] = False,
    fast: Annotated[
        bool, typer.Option("--fast", help="Losses equal up to rounding: frozen teachers as programs, and more on GPUs.")
    ] = False,
    sets: SetOption = None,
    output: Output = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of this very run.")] = False,
    together: Together = False,
    track: Track = None,
    json: JsonOption = False,
) -> None:
    """Train and evaluate methods, one after the other, or side by side with --together.

    The run.yaml in the folder of a run is a spec, too: it repeats that run, with its bench and seed.
    The student of every run is written without any need of kdflow, and its numbers are recorded ("kdflow results").
    """
    overrides = overrides_of(sets)
    settings: dict[str, Any] = {
        "bench": bench,
        "seed": seed,
        "steps": steps,
        "device": device,
        "precision": precision,
        "compiled": compiled,
        "calibrate": calibrate,
        "fast": fast,
        "overrides": overrides,
        "output": output,
        "resume": resume,
        "trackers": track,
    }
    if len(specs) > 1:
        _check_first(specs, bench, overrides)
    good = _all_at_once(specs, settings, json) if together else [_one(spec, settings, json) for spec in specs]
    if not all(good):
        raise typer.Exit(1)


def _check_first(specs: list[str], bench: str | None, overrides: dict[str, Any]) -> None:
    """A mistake in the last spec should not show after the others have run for hours."""
    from kdflow.cli.check import raise_all, verdicts_of

    raise_all(verdicts_of(specs, bench, overrides))


def _one(spec: str, settings: dict[str, Any], json: bool) -> bool:
    """One run; True when it finished."""
    from kdflow.cli.progress import ProgressHook
    from kdflow.experiment.run import run as run_method

    settings = {**settings, "seed": _seed(spec, settings["seed"])}
    hook = ProgressHook(f"{_called(spec)}, seed {settings['seed']}")
    try:
        result = run_method(spec, hooks=(hook,), notify=_remark, **settings)
    except InvariantError as error:
        note(f"{spec}: {error}")
        return False
    _tell(result, json)
    if result.status == "interrupted":
        raise typer.Exit(1)  # whoever stopped this run did not ask for the next one
    return bool(result.status == "finished")


def _seed(spec: str, given: int | None) -> int:
    from kdflow.experiment.find import seed_of

    return seed_of(spec) if given is None else given


def _called(spec: str) -> str:
    """The name of a method or of a run's folder."""
    path = Path(spec)
    return path.absolute().parent.name if path.name == "run.yaml" else path.stem


def _remark(text: str) -> None:
    if is_first():
        note(text)


def _all_at_once(specs: list[str], settings: dict[str, Any], json: bool) -> list[bool]:
    """All runs side by side; which of them finished."""
    from kdflow.cli.progress import Bars, ProgressHook
    from kdflow.experiment.request import RunRequest
    from kdflow.experiment.together import run_together

    words = ("bench", "seed", "steps", "precision", "compiled", "calibrate", "fast", "overrides")
    own = {key: settings.pop(key) for key in words}
    bars = Bars()
    requests = []
    for spec in specs:
        seed = _seed(spec, own["seed"])
        hook = ProgressHook(f"{_called(spec)}, seed {seed}", bars=bars)
        requests.append(RunRequest(spec, hooks=(hook,), **{**own, "seed": seed}))
    results = run_together(requests, notify=_remark, **settings)
    for result in results:
        _tell(result, json)
    return [result.status == "finished" for result in results]


def _tell(result: RunResult, json: bool) -> None:
    if not is_first():
        return
    if json:
        say_json(result.as_json(), compact=True)
    else:
        say(_sentence(result))


def _sentence(result: RunResult) -> str:
    metrics = "  ".join(
        f"{name} {value:.2f}" for name, value in result.metrics.items() if name in ("AP", "AP50", "voc_ap50")
    )
    lines = [f"{result.method} on {result.bench}, seed {result.seed}: {result.status}  {metrics}".rstrip()]
    if result.step_ms:
        lines[0] += f"  {result.step_ms:.0f} ms/step"
    if result.peak_memory_mib is not None:
        lines[0] += f"  {result.peak_memory_mib:.0f} MiB"
    if result.student_path:
        lines.append(f"  student: {result.student_path}")
    if result.status == "failed":
        lines.append(f"  {result.reason}")
    return "\n".join(lines)
