"""What a call, or a part that is built, replaces in a detector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdflow.graph.copies import CopiedStages
from kdflow.graph.rewire import Wanted
from kdflow.ports import Call, Stage


@dataclass
class Rewiring:
    """What a call replaces: ports, single arguments and options of stages, and the stages themselves by copies.

    Attributes:
        name: The entry.
        owner: Detector that is called.
        call: Which call of it.
        wanted: Port or ``stage:argument`` -> the reference that stands there.
        found: The same places -> the node, once the reference is followed.
        options: Stage -> options.
        copies: Stage -> the stage around its copy, and all copies.
        weights: Name of the copies in ``modules:``.
        base: What holds where this replaces nothing; None: the owner's own wiring.
    """

    name: str
    owner: str
    call: Call
    wanted: dict[str, Wanted] = field(default_factory=dict)
    found: dict[str, str] = field(default_factory=dict)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    copies: Mapping[str, tuple[Stage, CopiedStages]] = field(default_factory=dict)
    weights: str = ""
    base: Rewiring | None = None

    def name_of(self, port: str) -> str:
        """The rewired port as the method writes it: ``shared.logits``."""
        words = (word for word, place in self.call.outputs.items() if place == port)
        return f"{self.name}.{next(words, port)}"

    def touches(self, stage: str) -> bool:
        """True where the stage itself is replaced, or one of its arguments or options."""
        copied = self.base is None and stage in self.copies
        return copied or stage in self.options or any(place.startswith(f"{stage}:") for place in self.wanted)

    def node_of(self, port: str) -> str | None:
        """What stands for a port, here or in what holds beneath."""
        beneath = None if self.base is None else self.base.node_of(port)
        return self.found.get(port, beneath)
