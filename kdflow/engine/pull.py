"""How hard each distillation term pulls at the student, beside the detector's own losses.

The *pull* of a term is ``|dL_term| / |dL_det|``: Euclidean norms of two gradients, that of the term and that of all the
detector's losses, with their weights and before schedules, both over **the student's parameters that the two reach**. A
term on the neck is thus compared on neck and backbone, and what the detector's losses do in the heads counts nothing
there. Both norms are averaged over batches and processes before they are divided. The ratio of two losses' values says
nothing of the kind: a loss may be large and flat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from kdflow.engine import ranks
from kdflow.engine.protocols import Outcome, TermInfo
from kdflow.events import Pull

WITHIN = 20
"""Steps after which the pulls are told."""
EVERY = 4
"""Steps from one look to the next: each costs one backward pass per term, and one more."""


class Scale:
    """Sums of gradient norms, per term, on the device until they are read.

    Args:
        names: Distillation terms that are compared.
        sums: A :meth:`state_dict` to go on from.
    """

    def __init__(self, names: Sequence[str], sums: Tensor | None = None) -> None:
        self.names = tuple(names)
        self.sums = sums

    def add(
        self, outcome: Outcome, weights: Mapping[str, float], parameters: Sequence[nn.Parameter], factor: float = 1.0
    ) -> None:
        """Take the gradients of one pass; its graph is kept for the backward that follows.

        Args:
            outcome: The pass.
            weights: Weight of each of the detector's losses before its schedule.
            parameters: Those of the student that train.
            factor: On every value, so that small gradients do not vanish in fp16; it cancels out.
        """
        own = [v * weights[name] for name, v in outcome.raw.items() if name.startswith("det/") and v.requires_grad]
        if not own or not self.names:
            return
        base = _gradients(torch.stack(own).sum() * factor, parameters)
        rows = [_norms(outcome.raw.get(name), base, parameters, factor) for name in self.names]
        seen = torch.stack(rows)
        self.sums = seen if self.sums is None else self.sums.to(seen.device) + seen

    def per_weight(self) -> dict[str, float]:
        """Pull of each term at weight 1, the same on every rank; terms of which no gradient was seen are left out."""
        sums = self.merged()
        found = [] if sums is None else ranks.from_first(sums.tolist())
        return {name: term / own for name, (term, own) in zip(self.names, found) if term > 0 and own > 0}

    def merged(self) -> Tensor | None:
        """The sums, which are the same on every rank from now on."""
        if self.sums is not None:
            self.sums = ranks.mean(self.sums)
        return self.sums


class PullWatch:
    """Looks at the terms of a phase in some of its first steps, and then knows their pulls.

    Args:
        terms: All terms of the plan that count in the phase.
        end: Steps of the phase; a short one is judged by what it has.
    """

    def __init__(self, terms: Sequence[TermInfo], end: int) -> None:
        self.last = min(WITHIN, end)
        self.scale = Scale([t.name for t in terms if t.is_distillation and not t.auxiliary])
        self.looked = -1
        self.told = not self.scale.names or all(t.is_distillation for t in terms)

    def look(
        self,
        outcome: Outcome,
        weights: Mapping[str, float],
        parameters: Sequence[nn.Parameter],
        step: int,
        factor: float = 1.0,
    ) -> None:
        """Look at a pass of the phase's step ``step`` (0 for its first) where one is due: once in a step."""
        due = not self.told and step < self.last and step % EVERY == 0
        if due and step != self.looked and parameters:
            self.looked = step
            self.scale.add(outcome, weights, parameters, factor)

    def tell(self, done: int, weights: Mapping[str, float]) -> tuple[Pull, ...]:
        """The pulls, once, when ``done`` steps of the phase are enough to know them; else nothing."""
        if self.told or done < self.last:
            return ()
        self.told = True
        found = self.scale.per_weight()
        return tuple(Pull(name, weights[name], abs(weights[name]) * found[name]) for name in found if found[name] > 0)

    def state_dict(self) -> dict[str, Any]:
        """What was seen so far; called on every rank."""
        return {"sums": self.scale.merged(), "looked": self.looked, "told": self.told}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; one of a version that did not look has nothing to tell."""
        self.scale.sums, self.looked, self.told = state.get("sums"), state.get("looked", -1), state.get("told", True)


def _gradients(value: Tensor, parameters: Sequence[nn.Parameter]) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(value, list(parameters), retain_graph=True, allow_unused=True)


def _norms(
    value: Tensor | None, base: Sequence[Tensor | None], parameters: Sequence[nn.Parameter], factor: float
) -> Tensor:
    """Norm of the term's gradient, and of the detector's where the term reaches; zeros where there is nothing to compare."""
    nothing = torch.zeros(2, dtype=torch.float64, device=parameters[0].device)
    if value is None or not value.requires_grad:
        return nothing
    both = [(a, b) for a, b in zip(_gradients(value * factor, parameters), base) if a is not None and b is not None]
    if not both:
        return nothing
    term, own = (get_total_norm([pair[i].float() for pair in both]).double() for i in (0, 1))
    return torch.where(torch.isfinite(term) & torch.isfinite(own) & (term > 0), torch.stack([term, own]), nothing)
