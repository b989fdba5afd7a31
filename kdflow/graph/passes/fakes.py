"""Detectors as fake tensors, and what their stages give: made once for all graphs over the same detectors."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._pytree import tree_map

from kdflow.detectors.caches import uncached
from kdflow.graph.node import Node
from kdflow.ports import Detector

_log = logging.getLogger(FakeTensorMode.__module__)


def fake_mode() -> FakeTensorMode:
    """Fake tensors with static shapes where possible."""
    env = ShapeEnv(allow_dynamic_output_shape_ops=True, allow_scalar_outputs=True)
    return FakeTensorMode(shape_env=env, static_shapes=True, allow_non_fake_inputs=True)


class Fakes:
    """Fake tensors of one mode, which several graphs may share as long as their detectors stay as they are.

    The detectors are copied, so neither their weights nor their running statistics are touched and no memory is taken. A stage
    that gets the very values it got in an earlier graph is not run again.

    Attributes:
        mode: The mode that all values belong to.
    """

    def __init__(self) -> None:
        self.mode = fake_mode()
        self._copies: dict[int, tuple[Detector, dict[str, nn.Module]]] = {}
        self._results: dict[tuple[int, ...], tuple[Any, Mapping[str, Any], Any]] = {}
        self._batches: dict[tuple[int, ...], Mapping[str, Any]] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        """In this block tensors are fake. What is refused is a fault in words, so torch does not log its traceback as well."""
        was, _log.disabled = _log.disabled, True
        try:
            with self.mode, uncached():
                yield
        finally:
            _log.disabled = was

    def value(self, value: Any) -> Any:
        """A nested value with its tensors as fake ones."""
        return tree_map(lambda v: self.tensor(v) if isinstance(v, Tensor) else v, value)

    def tensor(self, tensor: Tensor) -> Tensor:
        """A fake tensor of the same shape, on the CPU wherever the tensor is: a graph is inferred on one device."""
        if tensor.device.type == "cpu":
            return self.mode.from_tensor(tensor)
        with self.mode:
            fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
        return fake.requires_grad_(tensor.requires_grad)

    def batch(self, example: Mapping[str, Any]) -> Mapping[str, Any]:
        """An example batch; one of equal shapes gives the same values."""
        sizes = [side for size in example["image_sizes"] for side in size]
        shapes = (*example["images"].shape, *sizes, *(len(boxes) for boxes in example["targets.boxes"]))
        if shapes not in self._batches:
            self._batches[shapes] = {name: self.value(value) for name, value in example.items()}
        return self._batches[shapes]

    def module(self, module: nn.Module) -> nn.Module:
        """The module in eval mode with fake parameters and buffers; shared ones stay shared, and the original is not touched."""
        tensors = [*module.parameters(), *module.buffers()]
        return copy.deepcopy(module, {id(t): self.tensor(t) for t in tensors}).eval()

    def stages(self, detector: Detector) -> dict[str, nn.Module]:
        """Stage -> its fake copy."""
        if id(detector) not in self._copies:
            named = {name.replace(".", "/"): stage.run for name, stage in detector.stages.items()}
            copied: Any = self.module(nn.ModuleDict(named))
            self._copies[id(detector)] = detector, {name: copied[name.replace(".", "/")] for name in detector.stages}
        return self._copies[id(detector)][1]

    def remembered(self, node: Node, inputs: Mapping[str, Any], run: Callable[[], Any]) -> Any:
        """The result of a stage on these inputs, from memory where the same stage had them before."""
        if "taps" in node.options or node.run is None:
            return run()
        key = (id(node.run.run), *(id(value) for value in inputs.values()))
        # Stage and inputs are kept with the result, so that their ids are given to no other object.
        _, options, result = self._results.get(key, (None, None, None))
        if options != node.options:
            result = run()
            self._results[key] = (node.run, inputs), dict(node.options), result
        return result
