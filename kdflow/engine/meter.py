"""Means of the loss terms between two reports, kept on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdflow.engine import ranks
from kdflow.engine.protocols import Outcome


@dataclass
class Meter:
    """Sums of total, raw and weighted values; nothing is read from the device before :meth:`means`."""

    names: tuple[str, ...] = ()
    sums: Tensor | None = None
    count: int = 0

    def add(self, outcome: Outcome) -> Tensor:
        """Add one pass; returns its values as one vector in the order of :attr:`names`."""
        raw, weighted = dict(outcome.raw), dict(outcome.weighted)
        names = (*(f"raw {n}" for n in raw), *(f"weighted {n}" for n in weighted), "total")
        parts = [*raw.values(), *weighted.values(), outcome.total]
        values = torch.stack([p.detach().float().reshape(()) for p in parts])
        if self.sums is None or names != self.names:
            self.names, self.sums, self.count = names, torch.zeros_like(values, dtype=torch.float64), 0
        self.sums = self.sums + values
        self.count += 1
        return values

    def means(self) -> dict[str, float]:
        """Mean of each value over passes and ranks since the last call, by name."""
        if self.sums is None or not self.count:
            return {}
        means = ranks.mean(self.sums / self.count).tolist()
        self.sums, self.count = torch.zeros_like(self.sums), 0
        return dict(zip(self.names, means, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """The unfinished sums."""
        return {"names": self.names, "sums": self.sums, "count": self.count}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Continue unfinished sums."""
        sums = state["sums"]
        self.names, self.count = tuple(state["names"]), state["count"]
        self.sums = None if sums is None else sums.to(device)
