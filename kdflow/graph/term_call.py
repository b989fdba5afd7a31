"""The executable form of terms: from an elementwise loss to one number, as its reduction declares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdflow.errors import UsageError
from kdflow.functional.reduce import Axes, Named, mean_over_ranks, quotient, total, weigh
from kdflow.kinds import Kind
from kdflow.spec.method import Reduce


class TermCall(nn.Module):
    """A term: factors, rows and the reduction to one number.

    Args:
        name: ``kd/<term>``.
        reduce: The declared reduction.
        kinds: Kind of ``value``, of ``student``, and of each factor, row selection and divisor node.
    """

    def __init__(
        self,
        name: str,
        reduce: Reduce,
        value: Kind,
        student: Kind | None,
        factors: Sequence[Kind],
        rows: Sequence[Kind],
        over: Sequence[Kind],
    ) -> None:
        super().__init__()
        self.name = name
        self.reduce = reduce
        self.kinds = (value, student, tuple(factors), tuple(rows), tuple(over))
        self.stack = value.stack if not value.opaque else None
        self.numbers = 1.0
        for part in reduce.over:
            self.numbers *= part if isinstance(part, (int, float)) else 1.0

    def forward(
        self,
        value: Any,
        student: Any = None,
        factors: Sequence[Any] = (),
        rows: Sequence[Any] = (),
        over: Sequence[Any] = (),
        boxes: Sequence[Tensor] = (),
    ) -> tuple[Tensor, Tensor]:
        """The unscheduled scalar, and a boolean that is False when no entry of any group was judged.

        ``boxes`` are those that the rows of ``value`` belong to, per image, where the reduction asks for images.
        """
        stacked = self.stack is not None
        parts = [
            self._group(_Entry(*self._picked((value, student, factors, rows, over), i)), boxes)
            for i in range(len(value) if stacked else 1)
        ]
        if not parts:
            raise RuntimeError(f"{self.name}: there is nothing to compare")
        alive = any_alive([alive for _, _, alive in parts], parts[0][0])
        floor = self._floor(value[0] if stacked else value, boxes)
        return self._join([n for n, _, _ in parts], [d for _, d, _ in parts], floor), alive

    def _picked(self, values: Sequence[Any], i: int) -> Iterator[Any]:
        """Values and lists of values of the i-th entry of the stack."""
        for value, kind in zip(values, self.kinds):
            if isinstance(kind, tuple):
                yield [self._pick(one, own, i) for one, own in zip(value, kind)]
            else:
                yield self._pick(value, kind, i)

    def _pick(self, value: Any, kind: Kind | None, i: int) -> Any:
        return value[i] if self.stack is not None and value is not None and kind and kind.stack == self.stack else value

    def _floor(self, value: Tensor, boxes: Sequence[Tensor]) -> float | None:
        floor = self.reduce.floor
        if floor != "b":
            return floor
        return float(len(boxes) or value.shape[(self.kinds[0].axes or ()).index("b")])

    def _group(self, entry: _Entry, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor | float, Tensor | bool]:
        """Numerator, divisor and liveness of one entry of the stack, per image where asked."""
        if not boxes or self.reduce.scope == "batch":
            return self._entry(entry, images=len(boxes))
        parts = [self._entry(own, images=len(boxes), local=True) for own in self._by_image(entry, boxes)]
        numerators = [numerator for numerator, _, _ in parts]
        divisors = [d if isinstance(d, Tensor) else n.new_full((), d) for n, d, _ in parts]
        return torch.stack(numerators), torch.stack(divisors), any_alive([alive for _, _, alive in parts], numerators[0])

    def _by_image(self, entry: _Entry, boxes: Sequence[Tensor]) -> Iterator[_Entry]:
        """The rows of each image."""
        counts, rows = [len(own) for own in boxes], entry.value.shape[(self.kinds[0].axes or ()).index("n")]
        if sum(counts) != rows:
            problem = f"{self.name}: {rows} rows and {sum(counts)} boxes"
            raise UsageError(f"{problem}; put regions.split with the boxes of the rows before the loss")

        def split(value: Any, kind: Kind | None) -> Sequence[Any]:
            if isinstance(value, Tensor) and kind and "n" in (kind.axes or ()):
                return value.split(counts, (kind.axes or ()).index("n"))
            return list(value) if kind and kind.stack == "images" else [value] * len(counts)

        value, student, *groups = self.kinds
        lists = [zip(*[split(*one) for one in zip(v, k)]) if v else [()] * len(counts) for v, k in zip(entry[2:], groups)]
        yield from map(_Entry, split(entry.value, value), split(entry.student, student), *lists)

    def _entry(self, entry: _Entry, images: int, local: bool = False) -> tuple[Tensor, Tensor | float, Tensor | bool]:
        """Numerator, divisor and liveness; the latter is plain where no group depends on data. ``local``: of a single image."""
        kind, student_kind, factor_kinds, row_kinds, over_kinds = self.kinds
        value, student, axes = entry.value, entry.student, kind.axes or ()
        per_image = self.reduce.scope == "image" and not local
        named_factors = [Named(f, k.axes or ()) for f, k in zip(entry.factors, factor_kinds)]
        named_rows = [Named(r, k.axes or ()) for r, k in zip(entry.rows, row_kinds)]
        weighted, selected = weigh(Named(value, axes), named_factors, named_rows)
        summed = None if self.reduce.sum == "all" else self.reduce.sum
        numerator = total(weighted, axes, summed=summed, root=self.reduce.root, keep_images=per_image)
        sizes = {"b": images, **dict(zip(axes, value.shape))}
        if (
            isinstance(student, Tensor)
            and student_kind
            and student_kind.axes
            and len(student_kind.axes) == student.dim()
        ):
            sizes = {**sizes, **dict(zip(student_kind.axes, student.shape)), **dict(zip(axes, value.shape))}
        divisor: Tensor | float = self.numbers
        groups: list[Tensor] = [] if selected is None else [selected.any()]
        nodes = iter(zip(entry.over, over_kinds))
        for part in self.reduce.over:
            if part == "rows":
                count = self._rows(selected, value, axes, per_image)
                divisor = divisor * (_shared(count, local) if isinstance(count, Tensor) else count)
            elif part == "elements":
                divisor = divisor * value.numel() / (sizes["b"] if per_image else 1)
            elif isinstance(part, str) and part in sizes:
                divisor = divisor * sizes[part]
            elif isinstance(part, str):
                count = _sum(*next(nodes), per_image)
                groups.append((count != 0).any())
                divisor = divisor * _shared(count, local)
        alive: Tensor | bool = value.numel() > 0
        for group in groups if alive else ():
            alive = alive & group
        return numerator, divisor, alive

    def _rows(self, selected: Tensor | None, value: Tensor, axes: Axes, per_image: bool) -> Tensor | float:
        """Number of selected rows: the axes a selection speaks of, that is all but the features."""
        features = [i for i, a in enumerate(axes) if a in ("c", "e")]
        if selected is None:
            count = 1
            for i, size in enumerate(value.shape):
                count *= 1 if i in features or (per_image and axes[i] == "b") else size
            return float(count)
        varying = selected.expand([1 if i in features else size for i, size in enumerate(value.shape)]).to(value.dtype)
        return _per_image(varying) if per_image else varying.sum()

    def _join(self, numerators: list[Tensor], divisors: list[Tensor | float], floor: float | None) -> Tensor:
        eps, levels = self.reduce.eps, self.reduce.levels
        if levels == "pooled":
            pooled = sum(divisors[1:], start=divisors[0])
            return self._images(quotient(torch.stack(numerators).sum(0), pooled + eps, floor))
        quotients = [self._images(quotient(n, d + eps, floor)) for n, d in zip(numerators, divisors)]
        if isinstance(levels, tuple):
            quotients = [weight * part for weight, part in zip(levels, quotients)]
        joined = quotients[0] if len(quotients) == 1 else torch.stack(quotients).sum()
        return joined / len(quotients) if levels == "mean" else joined

    def _images(self, value: Tensor) -> Tensor:
        """Images joined as declared; a single number is itself."""
        if value.dim() == 0:
            return value
        return value.mean() if self.reduce.images == "mean" else value.sum()


class _Entry(NamedTuple):
    """What one entry of a stack, or one image, brings to a term."""

    value: Tensor
    student: Any
    factors: Sequence[Tensor]
    rows: Sequence[Tensor]
    over: Sequence[Any]


def any_alive(entries: Sequence[Tensor | bool], like: Tensor) -> Tensor:
    """A boolean on the device of ``like``: True when any entry is; tensors are looked at only where no plain one decides."""
    judged = [entry for entry in entries if isinstance(entry, Tensor)]
    if judged and not any(entry is True for entry in entries):
        return torch.stack(judged).any()
    return torch.full((), any(entry is True for entry in entries), dtype=torch.bool, device=like.device)


def _shared(count: Tensor, local: bool) -> Tensor:
    """A number of the whole batch is that of all processes; of an image it is its own."""
    return count if local or count.dim() else mean_over_ranks(count)


def _sum(value: Any, kind: Kind, per_image: bool) -> Tensor:
    """Sum of a divisor node, or the number of boxes: per image where asked and possible."""
    if kind.name == "boxes":
        counts = torch.stack([own.new_full((), float(len(own))) for own in ([value] if isinstance(value, Tensor) else value)])
        return counts if per_image else counts.sum()
    if isinstance(value, (list, tuple)):
        return torch.stack([_sum(v, kind.element(), per_image) for v in value]).sum(0)
    value = value.detach()
    value = value if value.is_floating_point() else value.float()
    if per_image and kind.axes and kind.axes[0] == "b":
        return _per_image(value)
    return value.sum()


def _per_image(value: Tensor) -> Tensor:
    """Sums over all axes but the first."""
    return value.reshape(value.shape[0], -1).sum(1)
