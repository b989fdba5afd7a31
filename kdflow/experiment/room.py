"""Whether a disk has room for what a run will write, said before anything is trained."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import nn

from kdflow.engine.checkpoint import BEST, LAST, PREVIOUS
from kdflow.files import WriteError
from kdflow.spec.bench import Recipe

_MOMENTS = {"sgd": 1, "adam": 2, "adamw": 2}
"""Tensors that an optimizer keeps for every parameter."""
WHOLE = 3
"""Checkpoints that lie side by side while the newest is written."""


def require_room(folder: Path, plan: nn.Module, student: nn.Module, recipe: Recipe) -> None:
    """Refuse a training whose checkpoints and weights do not fit on the disk.

    Args:
        folder: Where they will lie; it need not exist.
        plan: All that is saved in a checkpoint.
        student: What is kept as the best one, and exported.
        recipe: Says what optimizer and average keep beside the weights.

    Raises:
        WriteError: There is less room than they need; what an earlier try left in the folder counts as room.
    """
    wanted = WHOLE * checkpoint_bytes(plan, recipe) + 2 * _bytes(student)
    there = sum((folder / name).stat().st_size for name in (LAST, PREVIOUS, BEST) if (folder / name).is_file())
    free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.is_dir())).free
    if free + there < wanted:
        raise WriteError(
            f"{folder}: checkpoints and weights of this training need about {_megabytes(wanted)}, and its disk has "
            f"{_megabytes(free + there)} free. Next: make room, or name a folder on another disk"
        )


def checkpoint_bytes(plan: nn.Module, recipe: Recipe) -> int:
    """About the size of a checkpoint, which is mostly tensors."""
    trained = sum(p.numel() * p.element_size() for p in plan.parameters() if p.requires_grad)
    moments = 0 if recipe.optimizer.name == "sgd" and not recipe.optimizer.momentum else _MOMENTS[recipe.optimizer.name]
    averaged = trained if recipe.ema is not None else 0
    return _bytes(plan) + moments * trained + averaged


def _bytes(module: nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in module.state_dict().values())


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
