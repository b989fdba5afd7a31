"""Moving average of the student's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """Exponential moving average of a module's floating-point parameters; buffers are taken over as they are.

    The decay grows as ``(1 + n) / (10 + n)`` over the updates ``n`` until it reaches ``decay``, so that the first weights
    do not linger in short runs.

    Args:
        module: The student, already on its device.
        decay: Weight of the past, in (0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = module
        self.decay = decay
        self.updates = 0
        self.values = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        # Tied weights have several names; every name carries the same average.
        floats = {n for n, p in module.named_parameters(remove_duplicate=False) if p.is_floating_point()}
        self._averaged = sorted(floats & self.values.keys())

    @torch.no_grad()
    def restart(self) -> None:
        """Begin again from the module's present weights, which something other than training has set."""
        self.updates = 0
        for name, tensor in self.module.state_dict().items():
            self.values[name].copy_(tensor)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the module's present weights, after an optimizer step."""
        self.updates += 1
        decay = min(self.decay, self.updates / (9 + self.updates))
        now = self.module.state_dict()
        if self._averaged:
            torch._foreach_lerp_(
                [self.values[n] for n in self._averaged], [now[n] for n in self._averaged], 1 - decay
            )
        if rest := self.values.keys() - set(self._averaged):
            torch._foreach_copy_([self.values[n] for n in rest], [now[n] for n in rest])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the module has the averaged weights."""
        own = {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}
        self.module.load_state_dict(self.values)
        try:
            yield
        finally:
            self.module.load_state_dict(own)

    def state_dict(self) -> dict[str, int | dict[str, Tensor]]:
        """Averaged weights and the number of updates."""
        return {"updates": self.updates, "values": self.values}

    def load_state_dict(self, state: dict[str, int | dict[str, Tensor]]) -> None:
        """Continue a saved average."""
        updates, values = state["updates"], state["values"]
        if not isinstance(updates, int) or not isinstance(values, dict):
            raise TypeError("a moving average is saved as updates and values")
        self.updates = updates
        for name, tensor in self.values.items():
            tensor.copy_(values[name])
