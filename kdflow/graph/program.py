"""Frozen teacher stages as programs: norms folded into the convolutions before them, weights in the precision of their use.

A program computes what its stage computes up to rounding, from weights of its own; the stage itself stays as it is, for whoever
taps, watches or evaluates it. It is made at the first batch, from the weights that the teacher has then.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from kdflow.graph.node import Graph, Node, Role

TOLERANCE = 1e-3
"""Largest difference of a folded stage in single precision, as a share of the largest value."""
WARMUP = 2
"""Runs before a capture, in which libraries choose their kernels."""
OFTEN = 3
"""Times that an input shape has come before its graph is recorded."""
MOST = 64
"""Graphs of one stage; images of all shapes would otherwise fill the memory."""


def add_programs(graph: Graph, owners: Collection[str]) -> tuple[str, ...]:
    """Give the dense stages of frozen detectors programs, in place; returns the names of their nodes.

    Left as they are: stages with interior taps, copied stages, and everything whose shapes depend on data.

    Args:
        graph: A compiled graph.
        owners: Detectors that no phase trains.
    """
    made: dict[int, Program] = {}
    found = [node for node in graph.of_role(Role.STAGE) if _fits(node, owners)]
    for node in found:
        node.module.program = made.setdefault(id(node.module.run), Program(node.module.run))
    return tuple(node.name for node in found)


def _fits(node: Node, owners: Collection[str]) -> bool:
    dense = node.run is not None and (node.run.dense or node.run.dense_in_eval) and not node.stochastic
    return dense and node.owner in owners and node.copied is None and not node.options.get("taps")


class Program(nn.Module):
    """A stage with weights of its own.

    Args:
        run: The stage, frozen and in evaluation mode.
    """

    def __init__(self, run: nn.Module) -> None:
        super().__init__()
        self._stage = (run,)
        self._made: dict[torch.dtype, Callable[..., Any]] = {}

    def forward(self, **inputs: Any) -> Any:
        """What the stage gives, up to rounding."""
        like = next((value for value in pytree.tree_leaves(inputs) if isinstance(value, Tensor)), None)
        if like is None:
            return self._stage[0](**inputs)
        kind = like.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        if dtype not in self._made:
            self._made[dtype] = self._make(inputs, dtype, like.device)
        return self._made[dtype](**inputs)

    def _make(self, inputs: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> Callable[..., Any]:
        stage = folded(self._stage[0], inputs, device.type)
        for layer in stage.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                layer.to(dtype)
        stage.to(memory_format=torch.channels_last)
        return Captured(stage) if device.type == "cuda" else stage


@torch.no_grad()
def folded(stage: nn.Module, inputs: Mapping[str, Any], kind: str) -> nn.Module:
    """A copy of the stage without its norms; with them, where what it gives would differ.

    Args:
        stage: In evaluation mode.
        inputs: What it is called with, by which convolutions and the norms behind them are found.
        kind: Type of the device.
    """
    with torch.autocast(kind, enabled=False):
        given = pytree.tree_map(lambda v: v.detach().float() if _is_real(v) else v, dict(inputs))
        whole = copy.deepcopy(stage).eval().requires_grad_(False)
        expected, pairs = _followed(whole, given)
        plain = copy.deepcopy(whole)
        names = {module: name for name, module in whole.named_modules()}
        for convolution, norm in pairs.items():
            fold(convolution, norm)
            parent, _, last = names[norm].rpartition(".")
            setattr(whole.get_submodule(parent), last, nn.Identity())
        return whole if _alike(expected, whole(**given)) else plain


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _followed(stage: nn.Module, inputs: Mapping[str, Any]) -> tuple[Any, dict[nn.Conv2d, nn.Module]]:
    """What the stage gives, and its convolutions each with the one norm that reads all of its outputs."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    readers: dict[nn.Conv2d, list[nn.Module | None]] = {}
    uses: dict[nn.Module, int] = {}

    def after(module: nn.Module, _: Any, output: Tensor) -> None:
        outputs[id(output)] = (module, output)  # type: ignore[assignment]  # kept alive, so that no other tensor has its id
        readers.setdefault(module, []).append(None)  # type: ignore[arg-type]

    def before(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        uses[module] = uses.get(module, 0) + 1
        convolution, _ = outputs.get(id(arguments[0]), (None, None))
        if convolution is not None:
            readers[convolution][-1] = module

    with ExitStack() as stack:
        for module in stage.modules():
            if type(module) is nn.Conv2d:
                stack.callback(module.register_forward_hook(after).remove)
            elif _statistics(module) is not None:
                stack.callback(module.register_forward_pre_hook(before).remove)
        found = stage(**inputs)
    pairs = {}
    for convolution, norms in readers.items():
        norm = norms[0]
        if norm is not None and all(n is norm for n in norms) and uses[norm] == len(norms):
            pairs[convolution] = norm
    return found, pairs


def _statistics(norm: nn.Module) -> tuple[Tensor, Tensor, float] | None:
    """Mean, variance and epsilon of a norm whose statistics are constant; None for everything else."""
    if not type(norm).__name__.endswith(("BatchNorm2d", "BatchNormAct2d")) or not hasattr(norm, "running_var"):
        return None
    if type(norm).__name__.endswith("Act2d") or norm.running_var is None:  # an activation inside is not folded away
        return None
    return norm.running_mean, norm.running_var, float(getattr(norm, "eps", 1e-5))  # type: ignore[return-value]


def fold(convolution: nn.Conv2d, norm: nn.Module) -> None:
    """Let a convolution compute what it and the norm behind it compute, in place."""
    statistics = _statistics(norm)
    if statistics is None:
        raise AssertionError(f"{type(norm).__name__} has no constant statistics")
    mean, variance, eps = statistics
    scale = (variance + eps).rsqrt()
    weight, shift = getattr(norm, "weight", None), getattr(norm, "bias", None)
    scale = scale if weight is None else scale * weight
    bias = convolution.bias if convolution.bias is not None else torch.zeros_like(mean)
    moved = (bias - mean) * scale + (0.0 if shift is None else shift)
    convolution.weight = nn.Parameter(convolution.weight * scale[:, None, None, None], requires_grad=False)
    convolution.bias = nn.Parameter(moved, requires_grad=False)


def _alike(expected: Any, found: Any) -> bool:
    pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(found), strict=True)
    return all(
        bool((a - b).abs().amax() <= TOLERANCE * a.abs().amax()) for a, b in pairs if _is_real(a) and a.numel()
    )


class Captured:
    """A stage as one launch: its kernels are recorded as a CUDA graph per input shape and played back.

    Where gradients pass through it, it runs as it is, and so it does for shapes that come seldom: recording costs several runs
    and memory. Each stream plays its own graphs, since the memory of one is written at every play.

    Args:
        stage: Frozen, in evaluation mode, on a GPU.
    """

    def __init__(self, stage: nn.Module) -> None:
        self.stage = stage
        self._graphs: dict[Any, tuple[Any, list[Tensor], Any]] = {}
        self._seen: Counter[Any] = Counter()

    def __call__(self, **inputs: Any) -> Any:
        """What the stage gives, in tensors of its own."""
        leaves, form = pytree.tree_flatten(inputs)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if any(t.requires_grad for t in tensors):
            return self.stage(**inputs)
        shapes = ((t.shape, t.dtype, t.stride()) if isinstance(t, Tensor) else t for t in leaves)
        key = (torch.cuda.current_stream().cuda_stream, str(form), *shapes)
        if key not in self._graphs:
            self._seen[key] += 1
            if self._seen[key] < OFTEN or len(self._graphs) >= MOST:
                return self.stage(**inputs)
            self._graphs[key] = self._record(leaves, form)
        graph, kept, found = self._graphs[key]
        for own, new in zip(kept, tensors):
            own.copy_(new)
        graph.replay()
        # The next replay overwrites what this one gave, and a method may keep it.
        return pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, found)

    @torch.no_grad()
    def _record(self, leaves: list[Any], form: Any) -> tuple[Any, list[Tensor], Any]:
        pool = _pool(torch.cuda.current_stream().cuda_stream)
        own = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        inputs = pytree.tree_unflatten(own, form)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARMUP):
                self.stage(**inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        dtype, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
        # Casts that autocast remembers would lie in the graph's memory and be read outside of it. Other threads (the loader's,
        # which pins memory, and the one that watches NCCL) may go on meanwhile: only this one is recorded.
        with (
            torch.autocast("cuda", dtype=dtype, enabled=enabled, cache_enabled=False),
            torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"),
        ):
            found = self.stage(**inputs)
        return graph, [leaf for leaf in own if isinstance(leaf, Tensor)], found


@cache
def _pool(stream: int) -> Any:
    """The memory that all graphs of a stream share.

    They are played one after the other, and what one gave has been copied before the next is played.
    """
    return torch.cuda.graph_pool_handle()
