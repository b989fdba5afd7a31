"""What every stage that gives loss terms has in common."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from kdflow.kinds import SCALAR
from kdflow.ports import Port


class LossTerms(nn.Module):
    """A stage that gives loss terms.

    Attributes:
        names: Their names, in the library's order.
    """

    names: tuple[str, ...]

    def ports(self) -> dict[str, Port]:
        """``losses.<name>`` for each term."""
        return {name: Port(f"losses.{name}", SCALAR, doc="weighted loss term of the detector") for name in self.names}

    def infer(self, **values: Any) -> dict[str, Any]:
        """Scalars."""
        like = next(leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.is_floating_point())
        return {name: like.new_zeros(()) for name in self.names}
