"""The executable form of nodes: small modules that a lowered graph calls."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdflow.functional.reduce import Axes, Named, mean_over_ranks, quotient, total, weigh
from kdflow.functional.taps import joined, tapped
from kdflow.kinds import Kind
from kdflow.spec.method import Reduce


class Streams:
    """Addressed randomness: every stochastic node draws from a stream keyed by (seed, step, part, name).

    The same run alone, beside others, or resumed draws the same numbers. ``seed`` None leaves torch's global generator alone, so
    that nodes draw from it in the order of declaration, as the libraries do.
    """

    def __init__(self, seed: int | None) -> None:
        self.seed = seed
        self.step = 0
        self.part = 0

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Draw from the stream of ``name`` inside this context."""
        if self.seed is None:
            yield
            return
        devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices=devices):
            key = stream_key(self.seed, self.step, f"{self.part}/{name}")
            # torch.manual_seed would also queue a call, with a stack trace, for each GPU that is not open: a hundred times dearer
            torch.default_generator.manual_seed(key)
            if devices:
                torch.cuda.manual_seed(key)
            yield


def stream_key(seed: int, step: int, name: str) -> int:
    """A 63-bit seed that depends on all three."""
    digest = hashlib.blake2b(f"{seed}/{step}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class StageCall(nn.Module):
    """One call of a detector's stage; interior taps are hooked for the duration of the call only.

    Attributes:
        program: What runs in place of the stage where nothing is tapped (:mod:`kdflow.graph.program`).
    """

    program: nn.Module | None

    def __init__(self, name: str, run: nn.Module, options: Mapping[str, Any], streams: Streams | None) -> None:
        super().__init__()
        self.name = name
        self.run = run
        self.options = {k: v for k, v in options.items() if k != "taps"}
        self.taps: dict[str, nn.Module] = dict(options.get("taps", {}))
        self.streams = streams
        self.register_module("program", None)

    def forward(self, **inputs: Any) -> dict[str, Any]:
        """The stage's named values, and those of tapped modules under ``@path``."""
        with self.streams.of(self.name) if self.streams else contextlib.nullcontext():
            given = {**self.options, **inputs}
            if not self.taps:
                return (self.program or self.run)(**given)
            with tapped(self.taps) as seen:
                result = dict(self.run(**given))
            return {**result, **{f"@{path}": joined(outputs) for path, outputs in seen().items()}}


class FunctionOp(nn.Module):
    """A function with its options bound."""

    def __init__(self, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
        super().__init__()
        self.function = function
        self.options = dict(options)

    def forward(self, **inputs: Any) -> Any:
        """The function's value."""
        return self.function(**inputs, **self.options)

    def extra_repr(self) -> str:
        """Function and options, for ``print``."""
        return f"{self.function.__name__}, {self.options}"


class Prepared(nn.Module):
    """In training, the value of a preparation is read from its state."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, **observed: Any) -> Any:
        """The prepared values."""
        return self.inner()


class OpCall(nn.Module):
    """One op, mapped over a stack where the graph says so.

    Args:
        name: Node name, the address of its random stream.
        parts: The op once, or once per entry of the stack.
        lifted: Inputs that are stacks and are walked in step; empty when the op takes its inputs whole.
        canvas: Inputs that hold the images and are replaced by their (height, width).
        no_grad: Evaluate without gradient.
        exact: Evaluate in float32 under autocast (losses).
        streams: Random streams of a stochastic op.
    """

    def __init__(
        self,
        name: str,
        parts: Sequence[nn.Module],
        lifted: Sequence[str],
        canvas: Sequence[str],
        *,
        no_grad: bool = False,
        exact: bool = False,
        streams: Streams | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.parts = parts
        self.lifted = tuple(lifted)
        self.canvas = tuple(canvas)
        self.no_grad = no_grad
        self.exact = exact
        self.streams = streams
        self.plain = not (no_grad or streams)

    def forward(self, **inputs: Any) -> Any:
        """The op's value, a list over the stack where it is mapped."""
        for name in self.canvas:
            inputs[name] = tuple(inputs[name].shape[-2:])
        if self.exact and torch.is_autocast_enabled(_device_type(inputs)):
            with torch.autocast(_device_type(inputs), enabled=False):
                return self._apply_parts({k: _float(v) for k, v in inputs.items()})
        if self.plain:
            return self._apply_parts(inputs)
        grad = torch.no_grad() if self.no_grad else contextlib.nullcontext()
        with grad, self.streams.of(self.name) if self.streams else contextlib.nullcontext():
            return self._apply_parts(inputs)

    def _apply_parts(self, inputs: dict[str, Any]) -> Any:
        if not self.lifted:
            return self.parts[0](**inputs)
        whole = {k: v for k, v in inputs.items() if k not in self.lifted}
        length = len(inputs[self.lifted[0]])
        results = [
            self.parts[i if len(self.parts) > 1 else 0](**whole, **{k: inputs[k][i] for k in self.lifted})
            for i in range(length)
        ]
        if results and isinstance(results[0], dict):
            return {key: [r[key] for r in results] for key in results[0]}
        return results


def _device_type(inputs: Mapping[str, Any]) -> str:
    for value in inputs.values():
        first = value[0] if isinstance(value, (list, tuple)) and value else value
        if isinstance(first, Tensor):
            return first.device.type
    return "cpu"


def _float(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, list):
        return [_float(v) for v in value]
    return value


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
    ) -> tuple[Tensor, Tensor]:
        """The unscheduled scalar, and a boolean that is False when no entry of any group was judged."""
        if self.stack is None:
            numerator, divisor, alive = self._entry(value, student, factors, rows, over)
            return self._join([numerator], [divisor]), any_alive([alive], numerator)
        parts = []
        for i in range(len(value)):

            def pick(values: Sequence[Any], kinds: Sequence[Kind], i: int = i) -> list[Any]:
                return [v[i] if k.stack == self.stack else v for v, k in zip(values, kinds)]

            own = student[i] if student is not None and self.kinds[1] and self.kinds[1].stack == self.stack else student
            parts.append(
                self._entry(
                    value[i], own, pick(factors, self.kinds[2]), pick(rows, self.kinds[3]), pick(over, self.kinds[4])
                )
            )
        if not parts:
            raise RuntimeError(f"{self.name}: there is nothing to compare")
        alive = any_alive([a for _, _, a in parts], parts[0][0])
        return self._join([n for n, _, _ in parts], [d for _, d, _ in parts]), alive

    def _entry(
        self, value: Tensor, student: Any, factors: Sequence[Tensor], rows: Sequence[Tensor], over: Sequence[Any]
    ) -> tuple[Tensor, Tensor | float, Tensor | bool]:
        """Numerator, divisor and liveness of one entry of the stack; the latter is plain where no group depends on data."""
        kind, student_kind, factor_kinds, row_kinds, over_kinds = self.kinds
        axes = kind.axes or ()
        per_image = self.reduce.scope == "image"
        named_factors = [Named(f, k.axes or ()) for f, k in zip(factors, factor_kinds)]
        named_rows = [Named(r, k.axes or ()) for r, k in zip(rows, row_kinds)]
        weighted, selected = weigh(Named(value, axes), named_factors, named_rows)
        summed = None if self.reduce.sum == "all" else self.reduce.sum
        numerator = total(weighted, axes, summed=summed, root=self.reduce.root, keep_images=per_image)
        sizes = dict(zip(axes, value.shape))
        if (
            isinstance(student, Tensor)
            and student_kind
            and student_kind.axes
            and len(student_kind.axes) == student.dim()
        ):
            sizes = {**dict(zip(student_kind.axes, student.shape)), **sizes}
        divisor: Tensor | float = self.numbers
        groups: list[Tensor] = [] if selected is None else [selected.any()]
        nodes = iter(zip(over, over_kinds))
        for part in self.reduce.over:
            if part == "rows":
                divisor = divisor * self._rows(selected, value, axes, per_image)
            elif part == "elements":
                divisor = divisor * value.numel() / (sizes["b"] if per_image else 1)
            elif isinstance(part, str) and part in sizes:
                divisor = divisor * sizes[part]
            elif isinstance(part, str):
                count = _sum(*next(nodes), per_image)
                groups.append((count != 0).any())
                divisor = divisor * mean_over_ranks(count)
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
        return mean_over_ranks(_per_image(varying) if per_image else varying.sum())

    def _join(self, numerators: list[Tensor], divisors: list[Tensor | float]) -> Tensor:
        floor, eps = self.reduce.floor, self.reduce.eps
        if self.reduce.levels == "pooled":
            pooled = sum(divisors[1:], start=divisors[0])
            return quotient(torch.stack(numerators).sum(0), pooled + eps, floor).mean()
        quotients = [_mean(quotient(n, d + eps, floor)) for n, d in zip(numerators, divisors)]
        if not isinstance(self.reduce.levels, str):
            quotients = [weight * part for weight, part in zip(self.reduce.levels, quotients)]
        joined = quotients[0] if len(quotients) == 1 else torch.stack(quotients).sum()
        return joined / len(quotients) if self.reduce.levels == "mean" else joined


def any_alive(entries: Sequence[Tensor | bool], like: Tensor) -> Tensor:
    """A boolean on the device of ``like``: True when any entry is; tensors are looked at only where no plain one decides."""
    judged = [entry for entry in entries if isinstance(entry, Tensor)]
    if judged and not any(entry is True for entry in entries):
        return torch.stack(judged).any()
    return torch.full((), any(entry is True for entry in entries), dtype=torch.bool, device=like.device)


def _mean(value: Tensor) -> Tensor:
    """Mean over images; a single number is itself."""
    return value if value.dim() == 0 else value.mean()


def _sum(value: Any, kind: Kind, per_image: bool) -> Tensor:
    """Sum of a divisor node: per image where asked and possible."""
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
