"""Which values are tried: fixed before anything runs, so that neither the order of trials nor the number of workers matters."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from kdflow.experiment.hashes import digest
from kdflow.search.space import Space
from kdflow.spec.method import SearchRange


def design(space: Space, budget: int) -> list[dict[str, Any]]:
    """Values of every trial: the declared ones first, the others a Latin hypercube.

    Each path's range (on its scale) is cut into as many equal parts as there are further trials, and each part is met once, in an
    order and at a place that depend on the path and the budget alone. So a path that several entries have in common, such as the
    learning rate, is tried at the same values in all of them.

    Args:
        space: What is searched; paths without a declared value begin in the middle of their range.
        budget: Trials, at least one.
    """
    first = {path: space.declared.get(path, _at(entry, 0.5)) for path, entry in space.ranges.items()}
    columns = {path: _column(path, entry, budget - 1) for path, entry in space.ranges.items()}
    return [first, *({path: columns[path][n] for path in space.ranges} for n in range(budget - 1))]


def _column(path: str, entry: SearchRange, parts: int) -> list[Any]:
    chance = random.Random(int(digest({"path": path, "parts": parts}), 16))
    order = list(range(parts))
    chance.shuffle(order)
    return [_at(entry, (part + chance.random()) / parts) for part in order]


def _at(entry: SearchRange, share: float) -> Any:
    """The value at a share (0..1) of a range."""
    if entry.choices:
        return entry.choices[min(int(share * len(entry.choices)), len(entry.choices) - 1)]
    low, high = float(entry.low or 0), float(entry.high or 0)
    value = low * (high / low) ** share if entry.log else low + (high - low) * share
    if entry.step is None:
        return _short(value)
    stepped = low + entry.step * int((value - low) / entry.step + 0.5)
    whole = float(entry.step).is_integer() and low.is_integer()
    return int(stepped) if whole else _short(min(stepped, high))


def _short(value: float) -> float:
    """Four digits, which a person can type."""
    return float(f"{value:.4g}")


def plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as a file keeps them."""
    return {path: list(value) if isinstance(value, tuple) else value for path, value in values.items()}
