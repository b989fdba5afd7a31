"""One pair and method in every form that is timed, all from the same weights, and the proof that they compute the same."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import hand, peer
from kdflow.engine.loop import train_step
from kdflow.engine.machine import Machine
from kdflow.engine.phases import lay_out
from kdflow.engine.training import Training
from kdflow.experiment.build import Teachers
from kdflow.experiment.reading import read_method
from kdflow.experiment.setup import Setting, prepare
from kdflow.ports import Batch

PAIRS = Path(__file__).parent / "pairs"
RATE = 1e-6  # so small that every variant keeps doing the work of the first step
MOMENTUM, DECAY = 0.9, 1e-4
TOLERANCE = 1e-5
ENDLESS = 10**9
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}
BY_HAND = ("hand_full", "hand_cut", "torchdistill", "torchdistill_eval")
"""Variants that need the method's formulas written by hand."""


class DisagreementError(Exception):
    """Two variants do not compute the same; nothing is timed."""


@dataclass(frozen=True)
class Sample:
    """One batch in kdflow's form and in torchvision's, so that no variant pays for converting it."""

    batch: Batch
    images: list[Tensor]
    targets: list[dict[str, Tensor]]

    @property
    def boxes(self) -> list[Tensor]:
        return self.batch.boxes

    @property
    def sizes(self) -> list[tuple[int, int]]:
        return self.batch.image_sizes


@dataclass
class Variant:
    """One way to take a step.

    Attributes:
        step: One optimizer step on a sample.
        losses: Named losses of a sample, for the comparison.
        parameters: What trains.
        distils: False for the plain student.
    """

    step: Callable[[Sample], object]
    losses: Callable[[Sample], Mapping[str, Tensor]]
    parameters: Sequence[nn.Parameter]
    distils: bool = True


@dataclass
class Case:
    """A pair and a method, ready to be timed."""

    setting: Setting
    samples: list[Sample]
    variants: dict[str, Variant] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def steps(self) -> dict[str, Callable[[int], object]]:
        """Variant -> step on the sample of a round."""

        def take(variant: Variant, number: int) -> None:
            variant.step(self.samples[number % len(self.samples)])

        return {name: partial(take, variant) for name, variant in self.variants.items()}


def find_pair(name: str) -> str | Path:
    """A pair of this folder, else a bench by name or file."""
    own = PAIRS / f"{name}.yaml"
    return own if own.is_file() else name


def open_setting(
    pair: str,
    method: str,
    *,
    size: int | None,
    batch: int,
    precision: str,
    seed: int = 0,
    changes: Mapping[str, Any] | None = None,
    teachers: Teachers | None = None,
) -> Setting:
    """The compiled method on the pair: norms frozen, nothing in the step but forward, backward and SGD.

    ``changes`` are further overrides; settings with the same ``teachers`` hold their teachers in common.
    """
    overrides: dict[str, Any] = {
        "student.norm": "frozen", "teacher.norm": "frozen", "data.fixed": True,
        "recipe.optimizer": {"name": "sgd", "lr": RATE, "momentum": MOMENTUM, "weight_decay": DECAY},
        "recipe.schedule": {"name": "constant"}, "recipe.precision": precision, "recipe.batch": batch,
        "recipe.steps": ENDLESS, "recipe.epochs": None, "recipe.clip_norm": None, "recipe.ema": None, "recipe.accumulate": 1,
    }
    if size is not None:
        overrides["data.size"] = size
    overrides |= changes or {}
    return prepare(read_method(method), find_pair(pair), overrides=overrides, seed=seed, teachers=teachers)


def make_samples(setting: Setting, device: str, count: int = 4, seed: int = 0) -> list[Sample]:
    """Random images with four boxes each; speed depends on their number and sizes only."""
    draw = torch.Generator().manual_seed(seed)
    side, classes = setting.bench.data.size, len(setting.classes)
    offset = setting.detectors["student"].source().detect.get("first_label", 0)
    made = []
    for _ in range(count):
        images = torch.rand(setting.bench.recipe.batch, 3, side, side, generator=draw)
        corners = torch.rand(len(images), 4, 2, generator=draw) * side * 0.6
        sides = (0.1 + 0.3 * torch.rand(len(images), 4, 2, generator=draw)) * side
        labels = torch.randint(classes, (len(images), 4), generator=draw)
        batch = Batch(images, [(side, side)] * len(images), list(torch.cat([corners, corners + sides], 2)), list(labels))
        batch = batch.to(device)
        targets = [{"boxes": b, "labels": x + offset} for b, x in zip(batch.boxes, batch.labels)]
        made.append(Sample(batch, list(batch.images), targets))
    return made


def calibrate(setting: Setting, sample: Sample) -> None:
    """Give random weights the activations of trained ones, and blocks that start as identity something to do."""
    for owner, detector in setting.detectors.items():
        handles = [
            module.register_forward_pre_hook(_measure)
            for module in detector.model.modules() if type(module).__name__.startswith("Frozen")
        ]
        with torch.no_grad():
            setting.plan.evaluate(sample.batch, [f"{owner}.neck"])
        for handle in handles:
            handle.remove()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in setting.plan.ops.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)


def _measure(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
    module.running_mean.copy_(mean)  # type: ignore[operator,union-attr]
    module.running_var.copy_(variance)  # type: ignore[operator,union-attr]


def build_case(
    pair: str, method: str, machine: Machine, *, size: int | None = None, batch: int = 2, precision: str = "fp32",
    compiled: bool = False, channels_last: bool = False, fast: bool = False,
) -> Case:
    """Every variant of a pair and method, from the same weights; compiled parts, channels innermost and fast mode on request.

    Where no loop is written by hand, the plain student is the engine's own, and what is left out is said.
    """
    device = machine.device.type
    options: Any = {"size": size, "batch": batch, "precision": precision}
    setting = open_setting(pair, method, **options)
    setting.plan.to(machine.device)
    case = Case(setting, make_samples(setting, device))
    calibrate(setting, case.samples[0])
    state = {owner: copy.deepcopy(d.model.state_dict()) for owner, d in setting.detectors.items()}
    ops = copy.deepcopy(setting.plan.ops)

    def again(slug: str = method, **changes: Any) -> Setting:
        other = open_setting(pair, slug, **options, changes=changes)
        for owner, detector in other.detectors.items():
            detector.model.load_state_dict(state[owner])
        if slug == method:
            other.plan.ops.load_state_dict(ops.state_dict())
        other.plan.to(machine.device)
        return other

    if reason := no_hand_loop(setting):
        case.left_out.update(dict.fromkeys(BY_HAND, reason))
        case.variants["student_only"] = replace(engine(again("baseline"), machine, case.samples), distils=False)
    else:
        add_hand_loops(case, ops, precision)
    case.variants["plan"] = plain_plan(again(), precision)
    case.variants["kdflow"] = engine(again(), machine, case.samples)
    if compiled:
        case.variants["kdflow_compiled"] = engine(again(**{"recipe.compile": True}), machine, case.samples)
    if channels_last:
        case.variants["kdflow_channels_last"] = engine(again(**{"recipe.channels_last": True}), machine, case.samples)
    if fast:
        case.variants |= fast_engines(again(**{"recipe.fast": True}), machine, case.samples)
    return case


def no_hand_loop(setting: Setting) -> str:
    """Why there is no loop written by hand for this method and pair; empty where there is one."""
    if setting.method.method not in hand.METHODS:
        return f"no loop is written by hand for {setting.method.method}, only for {', '.join(hand.METHODS)}"
    if not all(hasattr(detector.model, "backbone") for detector in setting.detectors.values()):
        return "loops are written by hand for torchvision's pyramid detectors only"
    return ""


def add_hand_loops(case: Case, ops: Any, precision: str) -> None:
    """The plain student, the loops written by hand, and torchdistill with its teacher in either mode."""
    setting = case.setting
    case.variants["student_only"] = student_only(setting, precision)
    case.variants["hand_full"] = by_hand(setting, ops, precision, full=True)
    case.variants["hand_cut"] = by_hand(setting, ops, precision, full=False)
    reason = peer.missing()
    for name, train in (("torchdistill", True), ("torchdistill_eval", False)):
        if reason:
            case.left_out[name] = reason
        else:
            case.variants[name] = by_peer(setting, ops, precision, train_teacher=train)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    """The optimizer of all variants."""
    return torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)


def models(setting: Setting) -> tuple[Any, Any]:
    """Copies of student and teacher in torchvision's own form."""
    student, teacher = (hand.as_loaded(setting.detectors[owner].model) for owner in ("student", "teacher"))
    return student, teacher


def formulas(setting: Setting, ops: Mapping[str, nn.Module]) -> nn.Module:
    """The method by hand, with the plan's weights and copies of its adapters."""
    made: nn.Module = hand.METHODS[setting.method.method](ops, {t.name: t.weight for t in setting.plan.terms})
    return made.to(next(setting.plan.student.parameters()).device)


def student_only(setting: Setting, precision: str) -> Variant:
    student, _ = models(setting)
    loop = hand.HandLoop(student, None, None, full=False, optimizer=sgd, autocast=PRECISIONS[precision])
    return Variant(loop.step, loop.losses, loop.parameters, distils=False)


def by_hand(setting: Setting, ops: Any, precision: str, *, full: bool) -> Variant:
    student, teacher = models(setting)
    terms = formulas(setting, ops)
    loop = hand.HandLoop(student, teacher, terms, full=full, optimizer=sgd, autocast=PRECISIONS[precision])
    return Variant(loop.step, loop.losses, loop.parameters)


def by_peer(setting: Setting, ops: Any, precision: str, *, train_teacher: bool) -> Variant:
    student, teacher = models(setting)
    teacher.train(train_teacher)
    optimizer = {"key": "SGD", "kwargs": {"lr": RATE, "momentum": MOMENTUM, "weight_decay": DECAY}}
    box = peer.Torchdistill(
        student, teacher, formulas(setting, ops), optimizer=optimizer, autocast=PRECISIONS[precision]
    )
    return Variant(box.step, box.losses, box.parameters)


def plain_plan(setting: Setting, precision: str) -> Variant:
    """The plan in a plain loop, without the engine."""
    plan, device = setting.plan, next(setting.plan.student.parameters()).device.type
    parameters = [p for p in plan.parameters() if p.requires_grad]
    optimizer, autocast = sgd(parameters), PRECISIONS[precision]
    taken = iter(range(ENDLESS))

    def forward(sample: Sample) -> Any:
        with torch.autocast(device, autocast, enabled=autocast is not None):
            return plan(sample.batch)

    def step(sample: Sample) -> None:
        plan.advance(next(taken), ENDLESS, ENDLESS)
        total = forward(sample).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    return Variant(step, lambda sample: _unseeded(plan, lambda: forward(sample)), parameters)


def engine(setting: Setting, machine: Machine, samples: Sequence[Sample]) -> Variant:
    """What ``kdflow run`` does: the engine's own step with all its checks, on the samples in turn."""
    training = opened(setting, machine, samples)
    return stepping(training, training.batches)


def fast_engines(setting: Setting, machine: Machine, samples: Sequence[Sample]) -> dict[str, Variant]:
    """The step of fast mode, and the same with what the teacher makes of the samples at hand: the difference is its share."""
    training = opened(setting, machine, samples)
    ahead, early = training.batches, training.early()
    known = itertools.cycle([early(training.placed(sample.batch)) for sample in samples])
    return {"kdflow_fast": stepping(training, ahead), "kdflow_fast_fed": stepping(training, known)}


def opened(setting: Setting, machine: Machine, samples: Sequence[Sample]) -> Training:
    training = Training(setting.plan, setting.bench.recipe, machine, lay_out((), ENDLESS), ENDLESS)
    training.enter(0)
    training.open(lambda _: (sample.batch for sample in itertools.cycle(samples)))
    return training


def stepping(training: Training, batches: Iterator[Batch]) -> Variant:
    """The engine's step on these batches."""
    plan: Any = training.plan

    def step(_: Sample) -> None:
        training.batches = batches
        train_step(training)

    def losses(sample: Sample) -> Mapping[str, Tensor]:
        with plan.whole():
            return _unseeded(plan, lambda: training.session.forward(training.placed(sample.batch)))

    return Variant(step, losses, list(training.parameters.values()))


def _unseeded(plan: Any, forward: Callable[[], Any]) -> Mapping[str, Tensor]:
    """Losses with draws from torch's global generator, in the library's order, as everyone else draws."""
    seed, plan.streams.seed = plan.streams.seed, None
    try:
        return dict(forward().weighted)
    finally:
        plan.streams.seed = seed


def check_agreement(case: Case, tolerance: float = TOLERANCE) -> dict[str, float]:
    """The largest relative difference of each variant's terms, detector losses and gradient norm from those of ``hand_cut``.

    Without loops written by hand, the plan is the reference.

    Raises:
        DisagreementError: A distillation term differs by more than ``tolerance``.
    """
    sample = case.samples[1 % len(case.samples)]
    facts = {name: _facts(variant, sample) for name, variant in case.variants.items()}
    chosen = "hand_cut" if "hand_cut" in facts else "plan"
    reference, found = facts[chosen], {}
    for name, values in facts.items():
        if broken := [k for k, v in values.items() if not math.isfinite(v)]:
            raise DisagreementError(f"{', '.join(broken)} of {name} is not finite, so nothing can be compared or timed")
        terms = {k: v for k, v in values.items() if k.startswith("kd/")}
        if case.variants[name].distils and set(terms) != {k for k in reference if k.startswith("kd/")}:
            raise DisagreementError(f"{name} has the terms {sorted(terms)}, {chosen} {sorted(reference)}")
        compared = [k for k in values if k in reference and (k.startswith("kd/") or case.variants[name].distils)]
        gaps = {k: abs(values[k] - reference[k]) / max(abs(reference[k]), 1e-12) for k in compared}
        worst = max(gaps, key=lambda k: gaps[k], default="")
        if worst and gaps[worst] > (tolerance if worst != "gradient" else 100 * tolerance):
            raise DisagreementError(
                f"{worst} is {values[worst]:.9g} in {name} and {reference[worst]:.9g} in {chosen}; nothing was timed"
            )
        found[name] = gaps.get(worst, 0.0)
    return found


def _facts(variant: Variant, sample: Sample) -> dict[str, float]:
    """Losses by name, ``det`` in all, and the norm of the gradient; the gradients are cleared again."""
    torch.manual_seed(7)
    losses = dict(variant.losses(sample))
    total = sum(losses.values())
    total.backward()  # type: ignore[union-attr]
    norm = torch.stack([p.grad.norm() for p in variant.parameters if p.grad is not None]).norm()
    for parameter in variant.parameters:
        parameter.grad = None
    facts = {name: float(value.detach()) for name, value in losses.items() if name.startswith("kd/")}
    return {**facts, "det": float(total.detach()) - sum(facts.values()), "gradient": float(norm)}
