"""Words between the processes of one run; with a single process every function returns what it was given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from kdflow.errors import LostProcessError

T = TypeVar("T")

_BROKEN_LINK = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe", "socket")


def connected() -> bool:
    """True when this process is one of several that train together."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, 0 for the first."""
    return dist.get_rank() if connected() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if connected() else 1


def gather(value: T) -> list[T]:
    """The picklable ``value`` of every process, in rank order, on every process."""
    if not connected():
        return [value]
    found: list[T | None] = [None] * world_size()
    dist.all_gather_object(found, value)
    return cast("list[T]", found)


def from_first(value: T) -> T:
    """The first process's ``value`` on every process."""
    if not connected():
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0)
    return cast("T", box[0])


def mean(tensor: Tensor) -> Tensor:
    """Elementwise mean over processes, a new tensor."""
    if not connected():
        return tensor
    total = tensor.clone()
    dist.all_reduce(total, op=dist.ReduceOp.SUM)
    return total / world_size()


def largest(tensor: Tensor) -> Tensor:
    """Elementwise maximum over processes, a new tensor."""
    if not connected():
        return tensor
    top = tensor.clone()
    dist.all_reduce(top, op=dist.ReduceOp.MAX)
    return top


@contextmanager
def links() -> Iterator[None]:
    """Where processes work together inside: says so when one of them is gone.

    Raises:
        LostProcessError: In place of the library's error about its connection.
    """
    try:
        yield
    except RuntimeError as error:
        words = (str(error).strip().splitlines() or [""])[0]
        if connected() and any(sign in words.lower() for sign in _BROKEN_LINK):
            raise LostProcessError(rank(), world_size(), words) from error
        raise


def any_rank(flag: bool, device: torch.device) -> bool:
    """True when ``flag`` holds in at least one process."""
    return bool(largest(torch.tensor(int(flag), device=device)).item()) if connected() else flag


def wait() -> None:
    """Return when every process has come here."""
    if connected():
        gather(None)
