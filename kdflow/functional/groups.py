"""Entries of a tensor that belong together, by a number for each: softmax and reductions inside of groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import Tensor

from kdflow.errors import UsageError
from kdflow.functional.reduce import safe_root

How = Literal["sum", "mean", "max", "min", "norm"]


@dataclass(frozen=True)
class Groups:
    """Where the entries of tensors of one shape stand, group by group.

    Attributes:
        shape: Shape of these tensors.
        order: Their dimensions as: apart, along the numbers, free, along other dimensions of the group.
        sizes: Numbers of entries of these four.
        index: (N, 1) slot of each number's group, below N.
        known: (N, 1) False for entries without a group.
    """

    shape: torch.Size
    order: tuple[int, ...]
    sizes: tuple[int, int, int, int]
    index: Tensor
    known: Tensor

    def log_shares(self, values: Tensor) -> Tensor:
        """Logarithm of each entry's share of the softmax over its group; 0 where there is none."""
        table = self._table(values)
        highest = self._joined(table.detach().amax(2), "amax", -torch.inf)
        shifted = table - highest[..., None]
        total = self._joined(shifted.exp().sum(2), "sum", 0.0)
        return self._back(shifted - total.log()[..., None])

    def shares(self, values: Tensor) -> Tensor:
        """Softmax over each group; 0 where there is none."""
        return self._back(self._table(self.log_shares(values)).exp())

    def reduced(self, values: Tensor, how: How) -> Tensor:
        """For every entry one number of its group; 0 where there is none."""
        table = self._table(values)
        if how == "max":
            found = self._joined(table.amax(2), "amax", -torch.inf)
        elif how == "min":
            found = self._joined(table.amin(2), "amin", torch.inf)
        elif how == "norm":
            found = safe_root(self._joined(table.square().sum(2), "sum", 0.0))
        else:
            found = self._joined(table.sum(2), "sum", 0.0)
            if how == "mean":
                found = found / self._joined(torch.ones_like(table).sum(2), "sum", 0.0)
        return self._back(found[..., None].expand_as(table))

    def _table(self, values: Tensor) -> Tensor:
        """(N, free, other) values, 0 without a group."""
        apart, along, free, other = self.sizes
        table = values.permute(self.order).reshape(apart * along, free, other)
        return torch.where(self.known[..., None], table, 0.0)

    def _back(self, table: Tensor) -> Tensor:
        """A table in the shape of the values, 0 without a group."""
        table = torch.where(self.known[..., None], table, 0.0)
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        return table.reshape([self.shape[dim] for dim in self.order]).permute(inverse)

    def _joined(self, table: Tensor, how: str, start: float) -> Tensor:
        """(N, free): each row's number of its group."""
        where = self.index.expand_as(table)
        return table.new_full(table.shape, start).scatter_reduce(0, where, table, how).gather(0, where)


def grouped(groups: Tensor, like: Tensor, dims: Sequence[int]) -> Groups:
    """The groups of a tensor's entries.

    Args:
        groups: A number for each entry of the leading axes of ``like``; equal numbers are one group, below 0 is none. Those that
            differ in a leading axis beside ``dims`` never share one.
        like: A tensor of the shape that is worked on.
        dims: Its dimensions that a group runs along.

    Raises:
        UsageError: The numbers do not fit the tensor, or none of ``dims`` is numbered.
    """
    dims, count = [dim % like.dim() for dim in dims], groups.dim()
    if groups.shape != like.shape[:count]:
        shapes = f"values are {tuple(like.shape)}, groups are {tuple(groups.shape)}"
        raise UsageError(f"{shapes}; give one number for each entry of the leading axes, such as one per row or place")
    along = [dim for dim in dims if dim < count]
    if not along:
        raise UsageError("groups number entries that over: does not run along; name their axis there, as in over: [n] for rows")
    apart = [dim for dim in range(count) if dim not in along]
    other = [dim for dim in dims if dim >= count]
    free = [dim for dim in range(count, like.dim()) if dim not in other]
    parts = (apart, along, free, other)
    sizes = [prod(like.shape[dim] for dim in part) for part in parts]
    table = groups.long().permute(*apart, *along).reshape(sizes[0], sizes[1])
    index = _ranks(table) + sizes[1] * torch.arange(sizes[0], device=groups.device)[:, None]
    order = tuple(dim for part in parts for dim in part)
    return Groups(like.shape, order, (sizes[0], sizes[1], sizes[2], sizes[3]), index.reshape(-1, 1), (table >= 0).reshape(-1, 1))


def _ranks(numbers: Tensor) -> Tensor:
    """(K, M) the place of each number among the different ones of its row, below M: found without asking the device."""
    ordered, order = numbers.sort(dim=1)
    changes = (ordered[:, 1:] != ordered[:, :-1]).long().cumsum(1)
    ranks = torch.cat([torch.zeros_like(numbers[:, :1]), changes], dim=1)
    return torch.empty_like(numbers).scatter(1, order, ranks)
