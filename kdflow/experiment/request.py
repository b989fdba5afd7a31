"""What is asked of a run, and where it is carried out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kdflow.events import Hook
from kdflow.experiment.build import Teachers
from kdflow.experiment.reading import read_method
from kdflow.experiment.session import Session
from kdflow.experiment.setup import Setting, prepare
from kdflow.folders import slug
from kdflow.spec.resolve import MethodSpec

Notify = Callable[[str], None]


@dataclass(frozen=True)
class TrialOf:
    """Says that a run is one trial of a search: judged on the validation split, neither measured on test nor exported.

    Attributes:
        study: Name of the search.
        number: Number of the trial in it, or the name of a run beside its trials.
        parent: MLflow id of the search's own run.
        costs: Costs of the student that are measured before it trains, and recorded.
        limits: Cost -> most that is allowed; a student that costs more is not trained.
        start: Checkpoint with the student that this one's ``init:`` takes weights from.
    """

    study: str
    number: int | str
    parent: str = ""
    costs: tuple[str, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    start: Path | None = None

    def excess(self, costs: Mapping[str, float]) -> str:
        """Which limits the costs are beyond, in words; empty where they are kept."""
        beyond = [(name, costs[name], most) for name, most in self.limits.items() if costs.get(name, 0.0) > most]
        return ", ".join(f"{name} {cost:.4g} is above {most:.4g}" for name, cost, most in beyond)

    def folder(self, output: Path, bench: str) -> Path:
        """Where the trial's checkpoints lie."""
        return output / slug(bench) / "trials" / slug(self.study) / str(self.number)


@dataclass(frozen=True)
class RunRequest:
    """One run as a user names it.

    Attributes:
        spec: Slug, path, or a loaded method.
        bench: Name or path; none takes the method's own.
        seed: Seed of weights, data order and all random streams.
        steps: Length of training, in place of the recipe's.
        precision: ``fp32``, ``bf16`` or ``fp16``, in place of the recipe's.
        compiled: Use torch.compile on what is dense, whatever the recipe says.
        calibrate: Set the method's weights by their share of the gradient, as ``recipe.calibrate`` does.
        fast: As fast as losses that are equal up to rounding allow, whatever the recipe says.
        overrides: Dotted path of method or bench -> value.
        hooks: Further listeners of the training.
        trial: The run is a trial of a search; its ``metrics`` stay empty, ``validation`` is what it is judged by.
    """

    spec: str | Path | MethodSpec
    bench: str | Path | None = None
    seed: int = 0
    steps: int | None = None
    precision: str | None = None
    compiled: bool = False
    calibrate: bool = False
    fast: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)
    hooks: Sequence[Hook] = ()
    trial: TrialOf | None = None

    def prepared(self, teachers: Teachers | None = None) -> Setting:
        """Read, checked and compiled.

        Args:
            teachers: Detectors of other runs, to be shared where they are equal.

        Raises:
            SpecError, UsageError: Faults of the method or the bench.
        """
        method = self.spec if isinstance(self.spec, MethodSpec) else read_method(self.spec)
        changes = with_length(self.overrides, self.steps, self.precision, self.compiled, self.calibrate, self.fast)
        setting = prepare(method, self.bench, overrides=changes, seed=self.seed, teachers=teachers)
        return replace(setting, start=self.trial.start) if self.trial and self.trial.start else setting


@dataclass(frozen=True)
class Context:
    """Where runs are carried out.

    Attributes:
        session: Device, data and teachers.
        output: Folder of all runs.
        resume: Go on from the last checkpoint; a finished run is reported, not repeated.
        notify: Receives one line per phase of the work.
        trackers: What runs are written to beside MLflow.
    """

    session: Session
    output: Path
    resume: bool = False
    notify: Notify = print
    trackers: Sequence[str] = ()

    @property
    def is_first(self) -> bool:
        """True in the process that writes."""
        return self.session.machine.is_first


def with_length(
    given: Mapping[str, Any] | None,
    steps: int | None,
    precision: str | None = None,
    compiled: bool = False,
    calibrate: bool = False,
    fast: bool = False,
) -> dict[str, Any]:
    """Overrides, with length, precision, compilation and calibration as overrides of the recipe."""
    changes = dict(given or {})
    if steps is not None:
        changes |= {"recipe.steps": steps, "recipe.epochs": None}
    if precision is not None:
        changes["recipe.precision"] = precision
    if compiled:
        changes["recipe.compile"] = True
    if calibrate and not any(path.startswith("recipe.calibrate") for path in changes):
        changes["recipe.calibrate"] = True
    if fast:
        changes["recipe.fast"] = True
    return changes
