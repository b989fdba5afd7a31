"""Batches for a run: the same data for every method of a bench."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kdflow.data.formats import DataSource
from kdflow.data.loader import make_loader
from kdflow.data.transforms import Geometry, Step
from kdflow.engine.evaluate import Evaluation, examine
from kdflow.engine.machine import Machine
from kdflow.ports import Batch, Detector
from kdflow.spec.bench import Bench, DataSpec, Recipe
from kdflow.student.pictures import Pictures


def geometry_of(data: DataSpec, size: int | None = None) -> Geometry:
    """How the images of a bench reach a detector; ``size`` where it has an input size of its own."""
    steps = tuple(Step(**step.model_dump()) for step in data.augment)
    return Geometry(size or data.size, data.max_size, data.fixed, data.flip, data.resident, steps)


@dataclass
class Feed:
    """Training batches, passes and evaluations over one data set.

    Attributes:
        source: The open data.
        bench: Geometry and batch sizes.
        recipe: Recipe whose batches are made.
        seed: Order and augmentation depend on it.
        divisor: Canvas sides are multiples of this.
        machine: Rank and device.
        size: Input size, where it is not the bench's.
    """

    source: DataSource
    bench: Bench
    recipe: Recipe
    seed: int
    divisor: int
    machine: Machine
    size: int | None = None

    @property
    def geometry(self) -> Geometry:
        """How images are resized."""
        data = self.bench.data
        return geometry_of(data, self.size)

    @property
    def pictures(self) -> Pictures:
        """How pictures without targets are treated."""
        return self.geometry.pictures(self.divisor, self.bench.data.options.get("exif") == "apply")

    def training(self, start: int) -> Iterable[Batch]:
        """Batches ``start``, ``start + 1``, ... without end."""
        return make_loader(
            self.source.splits["train"],
            self.geometry,
            batch_size=self.recipe.batch,
            train=True,
            seed=self.seed,
            workers=self.bench.data.workers,
            size_divisor=self.divisor,
            start_step=start,
            rank=self.machine.rank,
            world_size=self.machine.world_size,
            device=self.machine.device,
        )

    def one_pass(self) -> Iterable[Batch]:
        """The training set once, in order, without augmentation."""
        return make_loader(
            self.source.splits["train"],
            self.geometry,
            batch_size=self.recipe.batch,
            train=False,
            seed=self.seed,
            workers=0,
            size_divisor=self.divisor,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the training set, over all processes."""
        images = len(self.source.splits["train"])
        return max(1, images // (self.recipe.batch * self.recipe.accumulate * self.machine.world_size))

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        if self.recipe.steps is not None:
            return self.recipe.steps
        return max(1, round((self.recipe.epochs or 1) * self.steps_per_epoch))

    def evaluate(self, detector: Detector, split: str) -> Mapping[str, float]:
        """Metrics of a detector on ``val`` or ``test``, in percent."""
        return self.examine(detector, split).metrics

    def examine(self, detector: Detector, split: str) -> Evaluation:
        """The same with the detections, and class by class."""
        chosen = self.source.splits[split]
        loader = make_loader(
            chosen,
            self.geometry,
            batch_size=self.bench.evaluation.batch or self.recipe.batch,
            train=False,
            seed=0,
            workers=self.bench.data.workers,
            size_divisor=self.divisor,
            rank=self.machine.rank,
            world_size=self.machine.world_size,
            device=self.machine.device,
        )
        return examine(
            detector,
            loader,
            chosen.coco,
            device=self.machine.device,
            max_detections=self.bench.evaluation.max_detections,
            evaluator=self.bench.evaluation.evaluator,
        )

    def facts(self) -> dict[str, Any]:
        """What of this feed determines a trained model."""
        geometry = self.geometry
        return {
            "data": self.source.fingerprint,
            "size": geometry.size,
            "max_size": geometry.max_size,
            "fixed": geometry.fixed,
            "augment": [vars(step) for step in geometry.steps],
            "divisor": self.divisor,
            "seed": self.seed,
        }
