"""Weights that are set when a run begins, by how hard the terms pull at the student (:mod:`kdflow.engine.pull`).

Shares are counted in gradient norms: the detector's own losses have what the terms leave. A term of share ``s`` thus pulls
``s / d`` times as hard as they do, where ``d`` is their part. With ``recipe.calibrate`` all terms together have its share; those
whose weights are numbers keep the ratios that the method gives them, and get one common factor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

import torch

from kdflow.engine.protocols import Loader, Plan, TermInfo
from kdflow.engine.pull import Scale
from kdflow.engine.randomness import generators_untouched
from kdflow.engine.training import Training
from kdflow.errors import InvariantError
from kdflow.events import WeightChange
from kdflow.ports import Batch
from kdflow.spec.bench import Calibrate

PARTS = 1_000_000
"""Passes of a step are counted from here, so that random streams differ from those of the training."""


def calibrate(training: Training, loader: Loader) -> list[WeightChange]:
    """Set the weights that are due in the present phase, the same on every rank; nothing else of the training is changed.

    Args:
        training: In the phase; its plan is on the device.
        loader: Its first batches are looked at, whatever the run has seen.

    Raises:
        InvariantError: A term with a share has no gradient where the detector's losses have one.
    """
    due = due_terms(training)
    if not due:
        return []
    settings = training.recipe.calibrate or Calibrate()
    names = [term.name for term in due]
    per_weight = measure(training, names, loader, settings.batches)
    shares = {term.name: term.share for term in counting(training) if term.share is not None}
    factors = solve({t.name: t.weight for t in due}, per_weight, shares, training.recipe.calibrate)
    training.calibrated.update(names)
    changes = []
    for term in due:
        if term.share is not None and term.name not in factors:
            raise InvariantError(
                term.name,
                f"in {settings.batches} batches it had no gradient where the detector's losses have one, so a share of it means "
                "nothing; give it a number as weight:, or more batches (recipe.calibrate.batches)",
            )
        if term.name in factors:
            before, after = training.plan.weights[term.name], term.weight * factors[term.name]
            pull = abs(after) * per_weight.get(term.name, 0.0)
            words = f"calibrated on {settings.batches} batches: {pull:.3g} x as hard as the detector's losses"
            changes.append(WeightChange(term.name, before, after, words))
    return changes


def counting(training: Training) -> list[TermInfo]:
    """Terms of the present phase that are compared with the detector's losses."""
    phase = training.phase
    present = [t for t in training.plan.terms if phase.counts(t.name)]
    if not training.trains_student or all(t.is_distillation for t in present):
        return []
    return [t for t in present if t.is_distillation and not t.auxiliary]


def due_terms(training: Training) -> list[TermInfo]:
    """Of these, those whose weights are to be set and are not yet."""
    wanted = [t for t in counting(training) if t.share is not None or training.recipe.calibrate is not None]
    return [t for t in wanted if t.name not in training.calibrated]


def solve(
    weights: Mapping[str, float], per_weight: Mapping[str, float], shares: Mapping[str, float], together: Calibrate | None
) -> dict[str, float]:
    """Factors on the weights of the terms, so that shares are met.

    Args:
        weights: Declared weight of each term that is set, 1 for a share.
        per_weight: Pull of each at weight 1, where there is one.
        shares: Shares of terms, those included that were set before.
        together: What all terms together have, where the recipe says so.
    """
    own = sum(shares.values())
    plain = [name for name in weights if name not in shares]
    taught = together.share if together is not None and plain else own
    pulls = {name: abs(weights[name]) * per_weight[name] for name in weights if name in per_weight}
    found = {name: share / (1 - taught) / pulls[name] for name, share in shares.items() if name in pulls}
    total = sum(pulls.get(name, 0.0) for name in plain)
    if total > 0:
        found |= dict.fromkeys(plain, (taught - own) / (1 - taught) / total)
    return found


def measure(training: Training, names: Sequence[str], loader: Loader, batches: int) -> dict[str, float]:
    """Pull of each term at weight 1, over the first batches of a stream, in training mode."""
    scale, factor = Scale(names), 2.0**12 if training.session.scaled else 1.0
    with aside(training, loader, batches, "calibrate") as looked_at:
        for batch in looked_at:
            scale.add(training.plan(batch), training.plan.weights, training.reached, factor)
    return scale.per_weight()


@contextmanager
def aside(training: Training, loader: Loader, batches: int, purpose: str) -> Iterator[Iterator[Batch]]:
    """The first batches of a stream, for passes that leave no trace: random streams and statistics are put back.

    Args:
        training: In a phase; inside, its plan computes everything itself, in the recipe's precision.
        loader: The stream.
        batches: How many.
        purpose: Addresses what is drawn.
    """
    plan, machine = training.plan, training.machine

    def placed() -> Iterator[Batch]:
        for number, batch in enumerate(islice(_closing(loader(0)), batches)):
            part = PARTS + machine.rank * batches + number
            plan.advance(training.step, training.total_steps, training.steps_per_epoch, part)
            yield training.placed(batch)

    with (
        generators_untouched(training.seed, purpose, training.step, machine.rank), plan.whole(), _buffers_kept(plan),
        training.session.precision.forward_context(),
    ):
        yield placed()


def _closing(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches; a generator among them is closed behind the last one that is taken."""
    taken = iter(batches)
    try:
        yield from taken
    finally:
        if close := getattr(taken, "close", None):
            close()


@contextmanager
def _buffers_kept(plan: Plan) -> Iterator[None]:
    """Statistics (BatchNorm, banks) that passes inside move are put back."""
    before = [(buffer, buffer.clone()) for buffer in plan.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
