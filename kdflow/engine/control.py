"""Weights that follow the gradient during training, so that a share of it is kept (:class:`kdflow.spec.balance.Control`)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kdflow.engine import ranks
from kdflow.engine.protocols import Outcome, TermInfo
from kdflow.engine.pull import Scale
from kdflow.events import WeightChange
from kdflow.spec.balance import Control
from kdflow.spec.method import trains

LOOKS = 8
"""Passes of an interval whose gradients are taken apart by term, where a term's own share is kept."""
NOTHING = 1e-8
"""A share below it means that no gradient was seen."""


def next_weight(control: Control, weight: float, share: float, ended: bool = False) -> float:
    """The weight after an interval in which ``share`` was measured.

    Args:
        control: What is kept, and how.
        weight: The weight in the interval, above 0.
        share: The mean share in it, 0 where there was no gradient.
        ended: The interval began where control ends.
    """
    if ended or share < NOTHING:
        return weight if control.fallback is None else control.fallback
    low, high = control.band
    if low <= share <= high or math.isclose(share, low) or math.isclose(share, high):
        return weight
    nearer, farther = (low, high) if share < low else (high, low)
    aim = {"middle": control.share, "near": nearer, "far": farther}[control.aim]
    ratio = aim * (1 - share) / (share * (1 - aim))
    return weight * min(max(ratio, 1 / control.limit), control.limit)


def share_of(gradients: Mapping[str, Tensor], chosen: Collection[str]) -> Tensor:
    """What some parameters have of the whole gradient: sums of absolute values; 0 where there is none, or it is not finite."""
    sums = dict(zip(gradients, torch._foreach_norm(list(gradients.values()), 1), strict=True))
    whole = torch.stack(list(sums.values())).sum()
    mine = [value for name, value in sums.items() if name in chosen]
    share = torch.stack(mine).sum() / whole if mine else torch.zeros_like(whole)
    return torch.where(torch.isfinite(share) & (whole > 0), share, torch.zeros_like(share)).double()


@dataclass
class Controller:
    """One term's control: what was measured in the present interval.

    Attributes:
        term: The term.
        control: Its declaration.
        interval: Length of an interval, steps.
        chosen: Parameters whose share is kept; empty for the term's own.
        scale: Norms, for the term's own share.
        seen: Sum of the shares of the chosen parameters, and their number.
    """

    term: str
    control: Control
    interval: int
    chosen: frozenset[str]
    scale: Scale = field(init=False)
    seen: Tensor | None = None

    def __post_init__(self) -> None:
        self.scale = Scale([self.term])

    def looks(self, step: int) -> bool:
        """Whether the term's gradient is taken apart at this step."""
        return not self.control.of and step % self.interval % max(1, self.interval // LOOKS) == 0

    def read(self, gradients: Mapping[str, Tensor]) -> None:
        """Take the whole gradient of a step."""
        share = share_of(gradients, self.chosen)
        both = torch.stack([share, torch.ones_like(share)])
        self.seen = both if self.seen is None else self.seen.to(both.device) + both

    def share(self, weight: float) -> float:
        """The mean share since the last change, the same on every rank."""
        if self.control.of:
            total, count = (0.0, 0.0) if self.seen is None else ranks.from_first(ranks.mean(self.seen).tolist())
            return total / count if count else 0.0
        pull = abs(weight) * self.scale.per_weight().get(self.term, 0.0)
        return pull / (1 + pull)

    def restart(self) -> None:
        """Begin an interval."""
        self.scale, self.seen = Scale([self.term]), None


class Controls:
    """The controllers of a phase.

    Args:
        terms: Its terms.
        parameters: What trains in it, by name.
        steps_per_epoch: Optimizer steps in one pass over the data.
    """

    def __init__(self, terms: Sequence[TermInfo], parameters: Mapping[str, nn.Parameter], steps_per_epoch: int) -> None:
        self._looked = -1
        self._all: list[Controller] = []
        for term in terms:
            if (control := term.control) is not None:
                chosen = frozenset(name for name in parameters if any(trains(pattern, name) for pattern in control.of))
                interval = steps_per_epoch if control.every == "epoch" else control.every
                self._all.append(Controller(term.name, control, interval, chosen))

    def look(
        self,
        outcome: Outcome,
        weights: Mapping[str, float],
        student: Sequence[nn.Parameter],
        step: int,
        factor: float = 1.0,
    ) -> None:
        """Look at a pass before its backward, once in a step; arguments as for :meth:`kdflow.engine.pull.Scale.add`."""
        if step == self._looked or not student:
            return
        for controller in self._all:
            if controller.looks(step):
                self._looked = step
                controller.scale.add(outcome, weights, student, factor)

    def read(self, parameters: Mapping[str, nn.Parameter], resting: Collection[str]) -> None:
        """Read the gradient of a step; a term that counts nothing in it is not to blame for it."""
        wanted = [c for c in self._all if c.control.of and c.term not in resting]
        if wanted:
            gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
            for controller in wanted if gradients else ():
                controller.read(gradients)

    def adjust(self, step: int, total_steps: int, weights: Mapping[str, float]) -> list[WeightChange]:
        """The weights that change now that ``step`` steps are done; intervals that are over begin anew."""
        changes = []
        for controller in self._all:
            if step % controller.interval:
                continue
            control, before = controller.control, weights[controller.term]
            until = math.inf if control.until is None else control.until * (total_steps if control.until <= 1 else 1)
            share = controller.share(before)
            after = math.copysign(next_weight(control, abs(before), share, step - controller.interval >= until), before)
            controller.restart()
            if after != before:
                words = f"was {abs(before):.4g}: its share was {100 * share:.3g} %, kept is {100 * control.share:.3g} %"
                changes.append(WeightChange(controller.term, before, after, words))
        return changes

    def state_dict(self) -> dict[str, Any]:
        """What was measured in the present intervals; called on every rank."""
        merged = {c.term: (c.scale.merged(), None if c.seen is None else ranks.mean(c.seen)) for c in self._all}
        for controller in self._all:
            controller.seen = merged[controller.term][1]
        return {"looked": self._looked, **{f"term {name}": list(values) for name, values in merged.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self._looked = state.get("looked", -1)
        for controller in self._all:
            controller.scale.sums, controller.seen = state.get(f"term {controller.term}", (None, None))
