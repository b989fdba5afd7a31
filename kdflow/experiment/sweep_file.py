"""A sweep written down in a file, under ``sweep:``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from kdflow.experiment.sweep import grid
from kdflow.spec.faults import validate
from kdflow.spec.load import read

Values = dict[str, list[Any]]


class Sweep(BaseModel):
    """What is run: methods x benches x points x seeds. A point is one of ``grid`` with one of ``zip`` and one of ``list``.

    Attributes:
        methods: Names or files.
        benches: Names or files; none takes each method's own.
        seeds: How many (0, 1, ...), or which.
        steps: Length of every run; none takes the recipe's.
        grid: Dotted path -> values; every combination.
        zip: Dotted path -> values; the first of each together, the second of each together, and so on.
        list: Points written out, each a mapping of dotted path -> value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    methods: list[str] = Field(min_length=1)
    benches: list[str] = Field(default_factory=list)
    seeds: list[int] = Field(default_factory=lambda: [0])
    steps: int | None = Field(default=None, gt=0)
    grid: Values = Field(default_factory=dict)
    zip: Values = Field(default_factory=dict)
    points: list[dict[str, Any]] = Field(default_factory=list, alias="list")

    @field_validator("seeds", mode="before")
    @classmethod
    def _counted(cls, value: Any) -> Any:
        return list(range(value)) if isinstance(value, int) and not isinstance(value, bool) and value > 0 else value

    @field_validator("grid", "zip")
    @classmethod
    def _filled(cls, value: Values) -> Values:
        if empty := [path for path, options in value.items() if not options]:
            raise ValueError(f"{empty[0]} has no values")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Sweep:
        if len({len(options) for options in self.zip.values()}) > 1:
            counts = ", ".join(f"{path} {len(options)}" for path, options in self.zip.items())
            raise ValueError(f"zip: all paths need as many values as each other ({counts}); grid combines freely")
        paths = [*self.grid, *self.zip, *{path for point in self.points for path in point}]
        if twice := sorted({path for path in paths if paths.count(path) > 1}):
            raise ValueError(f"{twice[0]} is set in two of grid, zip and list")
        return self

    def all_points(self) -> list[dict[str, Any]]:
        """Every point, those of ``list`` varying fastest."""
        zipped = [dict(zip(self.zip, row, strict=True)) for row in zip(*self.zip.values(), strict=True)] or [{}]
        return [{**one, **two, **three} for one, two, three in itertools.product(grid(self.grid), zipped, self.points or [{}])]


def read_sweep(path: Path) -> Sweep | None:
    """The sweep in a file; None for a file without ``sweep:``.

    Methods and benches that are files are looked for beside this file first.

    Raises:
        SpecError: With every fault of it.
    """
    document = read(path)
    if "sweep" not in document.data:
        return None
    for key in document.data:
        if key not in ("kdflow", "sweep"):
            document.report((key,), "a sweep file has the keys kdflow and sweep, nothing else")
    found = validate(Sweep, document.data["sweep"], document, ("sweep",))
    document.check()
    if found is None:  # its faults were raised above
        return None
    return found.model_copy(update={"methods": _near(found.methods, path), "benches": _near(found.benches, path)})


def _near(names: Sequence[str], file: Path) -> list[str]:
    """Names of files beside ``file`` as paths, others as they are."""
    return [str(file.parent / name) if (file.parent / name).is_file() else name for name in names]
