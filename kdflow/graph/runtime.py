"""The executable form of nodes: small modules that a lowered graph calls."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdflow.functional.taps import joined, tapped


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
