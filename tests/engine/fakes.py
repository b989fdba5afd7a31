"""A detector of two parameters and a plan around it: small enough to compare every bit of a run's state."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdflow.engine import loop
from kdflow.engine.loop import FitResult
from kdflow.engine.randomness import address
from kdflow.engine.run import Fit
from kdflow.ports import Batch
from kdflow.spec.balance import Control
from kdflow.spec.bench import Optimizer, Recipe, Schedule


class TwoParameters(nn.Module):
    """``scale * x + shift`` behind a BatchNorm without weights, so that there are statistics to lose."""

    def __init__(self, scale: float = 0.5, shift: float = 0.1) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1, affine=False)
        self.scale = nn.Parameter(torch.tensor([scale]))
        self.shift = nn.Parameter(torch.tensor([shift]))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.norm(x) + self.shift


@dataclass(frozen=True)
class FakeTerm:
    name: str
    is_distillation: bool = False
    auxiliary: bool = False
    weight: float = 1.0
    share: float | None = None
    control: Control | None = None


@dataclass(frozen=True)
class FakeOutcome:
    total: Tensor
    raw: Mapping[str, Tensor]
    weighted: Mapping[str, Tensor]
    empty: Collection[str] = frozenset()


class FakePlan(nn.Module):
    """One detector loss, one distillation term through an adapter, one prepared number, random noise in every pass."""

    def __init__(self, noise: float = 0.1, preparations: tuple[FakePreparation, ...] = ()) -> None:
        super().__init__()
        self.student = TwoParameters()
        self.ops = nn.ModuleDict({"aligned": nn.Linear(1, 1)})
        with torch.no_grad():
            self.ops["aligned"].weight.fill_(0.7)
            self.ops["aligned"].bias.fill_(-0.2)
        self.register_buffer("prototype", torch.zeros(1))
        teacher = TwoParameters(2.0, -1.0)
        teacher.requires_grad_(False)
        object.__setattr__(self, "hidden", {"teacher": teacher})
        self.terms = (FakeTerm("det/loss"), FakeTerm("kd/neck", True))
        self.weights = {term.name: term.weight for term in self.terms}
        self.preparations = preparations
        self.noise = noise
        self.weight = torch.tensor(1.0)
        self.phase = ""
        self.lr_drop = math.inf
        self.entered: list[str] = []
        self.generator = torch.Generator()
        self.advanced: list[tuple[int, int]] = []

    @property
    def resting(self) -> frozenset[str]:
        return frozenset() if float(self.weight) else frozenset({"kd/neck"})

    @property
    def teachers(self) -> dict[str, nn.Module]:
        return self.hidden

    def train(self, mode: bool = True) -> FakePlan:
        super().train(mode)
        for teacher in self.hidden.values():
            teacher.eval()
        return self

    def whole(self) -> AbstractContextManager[None]:
        return nullcontext()

    def begin(self, phase: str) -> bool:
        return False

    def thaw(self) -> tuple[nn.Module, ...]:
        return ()

    def enter(self, phase: str) -> None:
        self.phase = phase
        self.entered.append(phase)

    def advance(self, step: int, total_steps: int, steps_per_epoch: int, part: int = 0) -> None:
        self.weight.fill_(self.weights["kd/neck"] * (1 - step / total_steps))
        self.generator.manual_seed(address("plan", step, part))
        self.advanced.append((step, part))

    def forward(self, batch: Batch) -> FakeOutcome:
        x = batch.images.mean(dim=(1, 2, 3)).unsqueeze(1)
        target = 3 * x + self.prototype
        drawn = torch.randn(x.shape, generator=self.generator) + torch.randn(x.shape)  # own stream and the global one
        student, teacher = self.student(x), self.hidden["teacher"](x)
        raw = {
            "det/loss": (student - target + self.noise * drawn).square().mean(),
            "kd/neck": (self.ops["aligned"](student) - teacher).square().mean(),
        }
        weighted = {"det/loss": raw["det/loss"], "kd/neck": raw["kd/neck"] * self.weight}
        return FakeOutcome(torch.stack(list(weighted.values())).sum(), raw, weighted)


@dataclass(frozen=True)
class FakePreparation:
    """Stores a mean over the data and a random number; remembers how often it ran."""

    name: str = "prototype"
    every: str = "start"
    runs: list[int] = field(default_factory=list)

    def run(self, plan: FakePlan, batches: Iterable[Batch]) -> None:
        self.runs.append(1)
        mean = torch.stack([b.images.mean() for b in batches]).mean()
        plan.prototype.add_(mean + torch.rand(()))


def make_batch(index: int, size: int = 4) -> Batch:
    """Batch ``index``, whatever happened before."""
    generator = torch.Generator().manual_seed(address("data", index))
    images = torch.rand(size, 3, 2, 2, generator=generator)
    return Batch(images, [(2, 2)] * size, [torch.zeros(0, 4)] * size, [torch.zeros(0, dtype=torch.int64)] * size)


def loader(first: int) -> Iterator[Batch]:
    """Endless batches from ``first`` on; draws when it starts, as a DataLoader does."""
    torch.rand(3)
    index = first
    while True:
        yield make_batch(index)
        index += 1


def passes() -> list[Batch]:
    """One pass over the data."""
    return [make_batch(index) for index in range(3)]


def make_recipe(**changes: Any) -> Recipe:
    """A short recipe in which every part has state to lose."""
    values: dict[str, Any] = {
        "steps": 12, "batch": 4, "optimizer": Optimizer(name="sgd", lr=0.05, momentum=0.9, weight_decay=1e-3),
        "schedule": Schedule(name="cosine", warmup=3), "ema": 0.9, "clip_norm": 1.0,
        "checkpoint_every": 4, "log_every": 3, "evaluate_every": 5, **changes,
    }
    return Recipe(**values)


def evaluate(plan: FakePlan) -> dict[str, float]:
    """A number that depends on the student and draws from the generators, as data loading may."""
    torch.rand(5)
    x = torch.linspace(0, 1, 5).unsqueeze(1)
    return {"AP": -float((plan.student(x) - 3 * x).square().mean())}


def arguments(folder: Path, **changes: Any) -> dict[str, Any]:
    """Keyword arguments of a 12-step ``fit`` of three epochs."""
    return {
        "folder": folder, "total_steps": 12, "steps_per_epoch": 4, "seed": 7, "run_hash": "r1", "evaluate": evaluate,
        "passes": passes, **changes,
    }


def fit(plan: Any, loader: Any, recipe: Recipe, **given: Any) -> FitResult:
    """The engine's ``fit`` with what is asked for as keywords (see :func:`arguments`)."""
    ways = {key: given.pop(key) for key in ("resume", "device", "deterministic") if key in given}
    return loop.fit(Fit(plan, recipe, **given), loader, **ways)


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Paths at which two nested states differ in any bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [path]
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        found = [] if a.keys() == b.keys() else [f"{path} keys"]
        return found + [d for k in a.keys() & b.keys() for d in differences(a[k], b[k], f"{path}.{k}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        found = [] if len(a) == len(b) else [f"{path} length"]
        return found + [d for i, (x, y) in enumerate(zip(a, b, strict=False)) for d in differences(x, y, f"{path}[{i}]")]
    return [] if a == b else [path]
