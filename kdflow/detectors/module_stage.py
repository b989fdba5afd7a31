"""Any module as one stage: what it predicts and loses by a convention, and taps at its submodules."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kdflow.detectors.torchvision_parts import cells
from kdflow.errors import UsageError
from kdflow.functional.taps import Seen, joined, tapped
from kdflow.kinds import DENSE, DENSE_VALUES, Kind
from kdflow.ports import Detections, ImageSizes


class Convention(Protocol):
    """How a module is called.

    Attributes:
        total: Name of the sum among its loss terms; None where they are to be added up.
    """

    total: str | None

    def losses(
        self, model: nn.Module, images: Tensor, image_sizes: ImageSizes, boxes: list[Tensor], labels: list[Tensor]
    ) -> Mapping[str, Tensor]:
        """The module's loss terms in training mode."""
        ...

    def detections(self, model: nn.Module, images: Tensor, image_sizes: ImageSizes) -> Detections:
        """What it finds in evaluation mode; see :meth:`kdflow.ports.Detector.predict`."""
        ...


@dataclass(frozen=True)
class Tap:
    """A port of a module.

    Attributes:
        paths: Submodules whose outputs make the value, in this order.
        kind: Kind of the value.
        strides: Input pixels per cell, per level.
        length: Entries of the stack; None where it is none.
        take: Index or key of what counts where a submodule gives several values.
        channels: Numbers per place where a map becomes a list of places (dense kinds).
    """

    paths: tuple[str, ...]
    kind: Kind
    strides: tuple[int, ...] = ()
    length: int | None = None
    take: int | str | None = None
    channels: int = 0

    def is_whole(self, outputs: Sequence[list[Any]]) -> bool:
        """True once every entry was seen."""
        counts = [sum(len(value) if isinstance(value, (list, dict)) else 1 for value in seen) for seen in outputs]
        return all(counts) and sum(counts) >= (self.length or 1)

    def value(self, outputs: Sequence[list[Any]]) -> Any:
        """The port's value from the outputs of its submodules."""
        entries = [self._taken(output) for seen in outputs for output in seen]
        if self.kind.stack is None:
            return self._shaped(joined(entries))
        flat: list[Any] = []
        for entry in entries:
            flat += list(entry.values()) if isinstance(entry, dict) else entry if isinstance(entry, (list, tuple)) else [entry]
        return [self._shaped(entry) for entry in flat]

    def _taken(self, output: Any) -> Any:
        return output if self.take is None else output[self.take]

    def _shaped(self, value: Any) -> Any:
        """A map as places where the kind says so: (B, A * size, H, W) -> (B, H * W * A, size)."""
        if not isinstance(value, Tensor) or value.dim() != 4 or self.kind not in (DENSE, DENSE_VALUES):
            return value
        return cells(value, 1).squeeze(-1) if self.kind == DENSE_VALUES else cells(value, self.channels)


class Finished(BaseException):
    """Everything that was wanted has been seen."""


class ModuleStage(nn.Module):
    """A model in one piece, which runs no further than to the last value that somebody reads.

    Args:
        model: The model.
        taps: Key of the result -> tap.
        losses: Keys ``losses.<name>`` -> name in what the model returns; None takes the sum of all its terms.
        convention: How the model is called.
    """

    def __init__(
        self, model: nn.Module, taps: Mapping[str, Tap], losses: Mapping[str, str | None], convention: Convention
    ) -> None:
        super().__init__()
        self.model = model
        self.taps, self.losses, self.convention = dict(taps), dict(losses), convention

    def forward(
        self,
        images: Tensor,
        image_sizes: ImageSizes,
        boxes: list[Tensor],
        labels: list[Tensor],
        wanted: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Ports and loss terms among ``wanted``."""
        keys = wanted or (*self.taps, *self.losses)
        wants_losses = any(key in self.losses for key in keys)
        taps = {key: self.taps[key] for key in keys if key in self.taps}
        stops = not wants_losses and len(taps) == len(keys)

        def call() -> Mapping[str, Tensor]:
            if wants_losses or self.model.training:
                return self.convention.losses(self.model, images, image_sizes, boxes, labels)
            self.convention.detections(self.model, images, image_sizes)
            return {}

        found, losses = self._seen(taps, call, stops)
        values = {key: tap.value([found[path] for path in tap.paths]) for key, tap in taps.items()}
        return {**values, **{key: self._loss(key, losses) for key in keys if key in self.losses}}

    def infer(
        self,
        images: Tensor,
        image_sizes: ImageSizes,
        boxes: list[Tensor],
        labels: list[Tensor],
        wanted: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Taps by a pass that stops behind the last of them, checked against their strides; losses are scalars.

        Raises:
            UsageError: A tapped value is not what its port says; shows the shapes.
        """
        keys = [key for key in wanted or (*self.taps, *self.losses) if key in self.taps]
        found = self.forward(images, image_sizes, boxes, labels, keys) if keys else {}
        for key, value in found.items():
            check(key, self.taps[key], value, (int(images.shape[-2]), int(images.shape[-1])))
        return {**found, **{key: images.new_zeros(()) for key in wanted or self.losses if key in self.losses}}

    def _seen(
        self, taps: Mapping[str, Tap], call: Callable[[], Mapping[str, Tensor]], stops: bool
    ) -> tuple[Seen, Mapping[str, Tensor]]:
        modules = {path: self.model.get_submodule(path) for tap in taps.values() for path in tap.paths}

        def stop(seen: Seen) -> None:
            if all(tap.is_whole([seen[path] for path in tap.paths]) for tap in taps.values()):
                raise Finished

        with tapped(modules, stop if stops else None) as seen:
            losses: Mapping[str, Tensor] = {}
            with contextlib.suppress(Finished):
                losses = call()
            found = seen()
        for key, tap in taps.items():
            if missing := [path for path in tap.paths if not found[path]]:
                raise RuntimeError(f'{key}: "{missing[0]}" did not run in this pass; tap a module that does')
        return found, losses

    def _loss(self, key: str, losses: Mapping[str, Tensor]) -> Tensor:
        name = self.losses[key]
        if name is None:
            return torch.stack([value.reshape(()) for value in losses.values()]).sum()
        if name not in losses:
            raise RuntimeError(f'the model returns no loss "{name}"; it returns {", ".join(losses) or "none"}')
        return losses[name]


def check(key: str, tap: Tap, value: Any, canvas: tuple[int, int]) -> None:
    """UsageError unless a value has the entries, axes and grid that its port declares."""
    entries = list(value) if isinstance(value, list) else [value]
    shapes = ", ".join(str(tuple(int(s) for s in v.shape)) if isinstance(v, Tensor) else type(v).__name__ for v in entries)
    if not all(isinstance(v, Tensor) for v in entries):
        raise UsageError(f'port {key}: "{", ".join(tap.paths)}" gives {shapes}; choose a tensor with take: INDEX')
    if tap.length is not None and len(entries) != tap.length:
        raise UsageError(f"port {key}: declared are {tap.length} entries, seen are {len(entries)}: {shapes}")
    if tap.kind.axes is not None and any(v.dim() != len(tap.kind.axes) for v in entries):
        raise UsageError(f'port {key}: kind "{tap.kind}" has the axes ({", ".join(tap.kind.axes)}), seen are {shapes}')
    if "y" in (tap.kind.axes or ()):
        for v, stride in zip(entries, tap.strides):
            if any(abs(side / stride - int(own)) >= 1 for side, own in zip(canvas, v.shape[-2:])):
                raise UsageError(
                    f"port {key}: strides {list(tap.strides)} do not fit maps of {shapes} for images of {canvas[0]}x{canvas[1]}"
                )
