"""References: how a spec names a value of the graph.

student.neck             a port of an owner (student, teacher, or a teacher's name)
student.neck[0:4]        a slice of a stack (levels, layers, images); [2] or [-1] takes one entry
student@backbone.layer3  the output of any submodule of the owner's model
aligned, shared.logits   a node of the method, or one output of a node with several
images, targets.boxes    the batch
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PATTERN = re.compile(
    r"^(?P<base>[A-Za-z_][\w-]*)(?:(?P<at>@)(?P<module>[\w.]+)|(?P<rest>(?:\.[\w-]+)*))"
    r"(?:\[(?P<index>-?\d+|-?\d*:-?\d*)\])?$"
)


@dataclass(frozen=True)
class Reference:
    """A parsed reference.

    Attributes:
        base: First word: an owner, a node, or the first word of a batch value.
        rest: What follows the first dot (``neck``, ``roi.logits``, an output name), or "".
        module: Submodule path behind ``@``, or "".
        index: An entry of a stack, or None.
        span: A slice of a stack as (start, stop), or None.
    """

    base: str
    rest: str = ""
    module: str = ""
    index: int | None = None
    span: tuple[int | None, int | None] | None = None

    @property
    def whole(self) -> str:
        """The reference without index or slice."""
        if self.module:
            return f"{self.base}@{self.module}"
        return f"{self.base}.{self.rest}" if self.rest else self.base

    def __str__(self) -> str:
        if self.index is not None:
            return f"{self.whole}[{self.index}]"
        if self.span is not None:
            start, stop = ("" if part is None else str(part) for part in self.span)
            return f"{self.whole}[{start}:{stop}]"
        return self.whole


def parse_reference(text: str) -> Reference:
    """Parse ``text``; raises ValueError with the forms a reference can have."""
    match = _PATTERN.match(text.strip())
    if match is None:
        raise ValueError(
            f'"{text}" is no reference; write owner.port, owner@module, node or node.output, with [i] or [a:b]'
        )
    index, span = None, None
    if (bracket := match["index"]) is not None:
        if ":" in bracket:
            start, _, stop = bracket.partition(":")
            span = (int(start) if start else None, int(stop) if stop else None)
        else:
            index = int(bracket)
    return Reference(match["base"], (match["rest"] or "").lstrip("."), match["module"] or "", index, span)
