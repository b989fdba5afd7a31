"""Checkpointed activations: repeated blocks of the student keep their inputs alone and run again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint


class Recomputed:
    """The forward of a block that is run again in the backward pass; in evaluation it is the block's own.

    Args:
        block: Whose forward it stands for.
    """

    def __init__(self, block: nn.Module) -> None:
        self.block = block
        self.forward: Callable[..., Any] = block.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the block gives. Its random numbers are drawn once, and its statistics are moved once."""
        if not torch.is_grad_enabled():
            return self.forward(*args, **kwargs)
        return checkpoint(self.forward, *args, use_reentrant=False, context_fn=self._contexts, **kwargs)

    def _contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), statistics_kept(self.block)


def recompute_blocks(module: nn.Module) -> tuple[str, ...]:
    """Let the blocks of a module run again in the backward pass, in place; returns their names.

    Blocks are the members of a ``Sequential`` or ``ModuleList`` that holds several of one class, each with at least two layers
    that have weights: residual blocks, layers of a transformer. Of nested ones the outermost count.
    """
    found = dict(blocks_of(module))
    for block in found.values():
        block.forward = Recomputed(block)  # type: ignore[method-assign]
    return tuple(found)


def is_recomputed(module: nn.Module) -> bool:
    """True where a part of the module runs again in the backward pass."""
    return any(isinstance(part.forward, Recomputed) for part in module.modules())


def blocks_of(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Name and module of each block."""
    for name, child in module.named_children():
        place = f"{path}{name}"
        if _is_block(child, module):
            yield place, child
        else:
            yield from blocks_of(child, f"{place}.")


def _is_block(child: nn.Module, parent: nn.Module) -> bool:
    if not isinstance(parent, (nn.Sequential, nn.ModuleList)) or isinstance(child, (nn.Sequential, nn.ModuleList)):
        return False
    alike = sum(type(other) is type(child) for other in parent)
    layers = sum(any(True for _ in part.parameters(recurse=False)) for part in child.modules())
    return alike > 1 and layers > 1


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm layers compute what they compute and leave their running statistics where they are."""
    norms = [part for part in module.modules() if isinstance(part, _NormBase) and part.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, counted) in zip(norms, before):
            norm.momentum, norm.num_batches_tracked = momentum, counted
