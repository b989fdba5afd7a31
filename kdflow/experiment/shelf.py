"""Detectors that are built once for many settings, none of which is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from kdflow.experiment.hashes import digest
from kdflow.graph.passes.fakes import Fakes
from kdflow.ports import Detector
from kdflow.spec.bench import Bench

KEPT = 6
"""Benches whose detectors are kept; those that were not used for longest go first."""


class Loan:
    """A detector that a plan may freeze and set to training or evaluation; :meth:`detector` gives it as it was built."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        modules = [m for part in (detector.model, *_runs(detector)) for m in part.modules()]
        self._modes = [(module, module.training) for module in modules]
        self._trains = [(p, p.requires_grad) for p in detector.model.parameters()]

    def detector(self) -> Detector:
        """The detector with its first modes."""
        for module, mode in self._modes:
            module.training = mode
        for parameter, trains in self._trains:
            parameter.requires_grad_(trains)
        return self._detector


def _runs(detector: Detector) -> list[nn.Module]:
    return [stage.run for stage in detector.stages.values()]


@dataclass
class Row:
    """The detectors of one bench.

    Attributes:
        fakes: What was inferred about them.
    """

    fakes: Fakes = field(default_factory=Fakes)
    _loans: dict[str, Loan] = field(default_factory=dict)

    def detector(self, owner: str, build: Callable[[], Detector | None]) -> Detector | None:
        """The detector of this owner, built where it is not here yet; one that cannot be built is not kept."""
        if owner in self._loans:
            return self._loans[owner].detector()
        built = build()
        if built is not None:
            self._loans[owner] = Loan(built)
        return built


@dataclass
class Shelf:
    """Rows of detectors by bench. A setting from a shelf is for looking: the next one gets the same models."""

    _rows: dict[str, Row] = field(default_factory=dict)

    def row(self, bench: Bench, classes: tuple[str, ...], seed: int) -> Row:
        """The detectors of a bench; benches that differ in data or recipe alone share them."""
        owners = {"student": bench.student, **bench.all_teachers}
        specs = {owner: spec.model_dump(mode="json", exclude={"recipe"}) for owner, spec in owners.items()}
        key = digest({"specs": specs, "classes": classes, "seed": seed})
        self._rows[key] = row = self._rows.pop(key, None) or Row()
        while len(self._rows) > KEPT:
            del self._rows[next(iter(self._rows))]
        return row
