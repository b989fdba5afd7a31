"""What can be wrong with weights, schedules and norms over the length and batch of a recipe, known before data are read."""

from __future__ import annotations

import math
from collections.abc import Iterator

from kdflow.engine.phases import Phase, lay_out
from kdflow.engine.schedule import first_drop
from kdflow.errors import Fault, UsageError, choices
from kdflow.graph.plan import Plan, TermInfo
from kdflow.spec.bench import Bench, Recipe
from kdflow.spec.load import Document, Steps
from kdflow.spec.method import Method, trains


def balance_faults(method: Method, plan: Plan, document: Document, recipe: Recipe) -> list[Fault]:
    """Shares that cannot be met, controls that control nothing, and schedules that wait for a drop which never comes.

    Args:
        method: The resolved method.
        plan: Its plan.
        document: Where its lines stand.
        recipe: How the student is trained.
    """
    found: list[Fault] = []
    for term in plan.terms:
        found += [document.fault((*_place(term), *key), problem) for key, problem in _of_term(term, plan, recipe)]
    phases = _phases(method, 1_000_000)
    for phase in phases:
        found += _of_phase(phase, plan, document, recipe)
    return found


def lr_drops(phases: tuple[Phase, ...], recipe: Recipe) -> list[float]:
    """The step at which the learning rate drops in each phase; infinite where it does not."""
    drops = [first_drop(recipe.schedule, phase.steps) for phase in phases]
    return [math.inf if drop is None else phase.start + drop for drop, phase in zip(drops, phases, strict=True)]


def _phases(method: Method, steps: int) -> tuple[Phase, ...]:
    try:
        return lay_out(method.phases, steps)
    except UsageError:
        return ()  # phases in steps: the run says what is wrong with them, with its length


def _place(term: TermInfo) -> Steps:
    group, _, name = term.name.partition("/")
    return ("terms", name if group == "kd" else f"det.{name}")


def _of_term(term: TermInfo, plan: Plan, recipe: Recipe) -> Iterator[tuple[Steps, str]]:
    if term.share is not None and term.auxiliary:
        yield ("weight",), "this term trains modules of the method, not the student, so it has no share; give it a number"
    if term.control is not None and term.auxiliary and not term.control.of:
        yield ("control",), "this term trains modules of the method, not the student, so it has no share that could be kept"
    if term.schedule.asks_lr and first_drop(recipe.schedule, 1_000_000) is None:
        never = f"the recipe's learning rate ({recipe.schedule.name}) never drops"
        yield ("schedule",), f"{never}; write a length in place of lr_drop"
    names = [name for name, parameter in plan.named_parameters() if parameter.requires_grad]
    for index, pattern in enumerate(term.control.of if term.control is not None else ()):
        if not any(trains(pattern, name) for name in names):
            parts = {".".join([*name.split(".")[:depth], "*"]) for name in names for depth in (1, 2)}
            yield ("control", "of", index), f'"{pattern}" fits no parameter that trains.{choices(pattern, parts)}'


def _of_phase(phase: Phase, plan: Plan, document: Document, recipe: Recipe) -> Iterator[Fault]:
    """Shares of the terms of one phase; a run without phases is one."""
    present = [term for term in plan.terms if phase.counts(term.name)]
    taught = [term for term in present if term.is_distillation and not term.auxiliary]
    shares = [term for term in taught if term.share is not None]
    own = [term for term in taught if term.control is not None and not term.control.of]
    where = f" in phase {phase.name}" if phase.name else ""
    if all(term.is_distillation for term in present):
        for term in (*shares, *own):
            key = "weight" if term.share is not None else "control"
            problem = f"a share is counted beside the detector's own losses, and{where or ' here'} none of them is trained on"
            yield document.fault((*_place(term), key), problem)
        return
    total = sum(term.share or 0.0 for term in shares)
    words = f"the shares of {', '.join(term.name.partition('/')[2] for term in shares)}{where} are {total:g} together"
    if total >= 1:
        yield document.fault((*_place(shares[-1]), "weight"), f"{words}; below 1 something is left for the detector's losses")
    elif recipe.calibrate is not None and shares and len(shares) < len(taught) and total >= recipe.calibrate.share:
        problem = f"{words}, and recipe.calibrate.share is {recipe.calibrate.share:g}, so nothing is left for the other terms"
        yield document.fault((*_place(shares[-1]), "weight"), problem)


def silent_terms(
    method: Method, plan: Plan, document: Document, recipe: Recipe, steps: int, per_epoch: int
) -> list[Fault]:
    """Terms whose schedule is 0 at every step of a run that they count at.

    Args:
        method: The resolved method.
        plan: Its plan.
        document: Where its lines stand.
        recipe: How the student is trained.
        steps: Length of the run.
        per_epoch: Steps of an epoch.
    """
    try:
        phases = lay_out(method.phases, steps)
    except UsageError:
        return []  # the run says so, with the length that it was given
    silent, drops = [], lr_drops(phases, recipe)
    for term in plan.terms:
        spans = [(p.start, p.end, drop) for p, drop in zip(phases, drops, strict=True) if p.counts(term.name)]
        counts = any(term.schedule.ever_counts(end, per_epoch, begin, drop) for begin, end, drop in spans)
        if term.is_distillation and spans and not counts:
            path = ("terms", term.name.partition("/")[2], "schedule")
            problem = f"the schedule is 0 at each of the {steps} steps, so nothing is learned from this term"
            silent.append(document.fault(path, problem))
    return silent


def lonely_norms(plan: Plan, bench: Bench, document: Document) -> list[Fault]:
    """BatchNorm layers that would train on one value per channel, because a step has one image.

    Args:
        plan: The compiled method.
        bench: Its bench.
        document: The bench's file.
    """
    if bench.recipe.batch > 1 or bench.recipe.norms == "frozen":
        return []
    trained = {"student", "", *plan.learners}
    found = [
        f"{node.name.partition(':')[0]}, layer {layer}"
        for node in plan.graph.ordered() if node.owner in trained or (node.copied and node.copied.trainable)
        for layer in node.lonely_norms
    ]
    if not found:
        return []
    return [document.fault(
        ("recipe", "batch"),
        f"one image per step leaves one value per channel to a BatchNorm that is trained ({'; '.join(found[:3])}), which has no "
        "variance. Next: a batch of 2 or more, a larger data.size, or recipe.norms: frozen",
    )]
