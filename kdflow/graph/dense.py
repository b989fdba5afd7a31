"""The dense parts of a plan, whose shapes do not depend on data: what ``torch.compile`` is given, each part by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from kdflow.graph.node import Graph, Node, Role
from kdflow.graph.recompute import is_recomputed
from kdflow.kinds import Kind

Backend = str | Callable[..., Callable[..., object]]

_RAGGED = {"n", "i", "j"}
"""Axes whose lengths depend on data: rows, and pairs of rows."""


def compile_dense(graph: Graph, backend: Backend = "inductor") -> tuple[str, ...]:
    """Compile the dense parts of a graph in place, each with a cache of its own; returns the names of their nodes.

    Keys of state dicts stay as they are. Samplers, matching, boxes and everything on rows stay eager, and so do stages with
    interior taps: hooks that come and go with a call would be traced once and for all. A stage with blocks that run again in
    the backward pass stays eager, too: what is compiled chooses by itself what it keeps.
    """
    # Terms are differentiated more than once (is any of them dead?), so a backward must not give its buffers away.
    torch._functorch.config.donated_buffer = False  # type: ignore[attr-defined]
    found = []
    for name, module in dense_parts(graph):
        if module._compiled_call_impl is None:  # type: ignore[truthy-function]
            module.compile(backend=backend, isolate_recompiles=True)
        found.append(name)
    return tuple(dict.fromkeys(found))


def dense_parts(graph: Graph) -> Iterator[tuple[str, nn.Module]]:
    """Node name and module of everything that may be compiled; an op on a stack gives a module per entry."""
    tapped = {(node.owner, node.stage) for node in graph.of_role(Role.STAGE) if node.options.get("taps")}
    for node in graph.ordered():
        if node.module is None or node.stochastic or node.prepared:
            continue
        if node.role is Role.STAGE and node.run is not None and node.run.dense:
            if (node.owner, node.stage) not in tapped and not is_recomputed(node.run.run):
                yield node.name, node.run.run
        elif node.role is Role.OP and is_static(graph, node):
            yield from ((node.name, part) for part in node.module.parts)
        elif node.role is Role.TERM and _reduces(graph, node) and is_static(graph, node):
            yield node.name, node.module


def _reduces(graph: Graph, node: Node) -> bool:
    """True for a term that has more to do than to pass on a scalar, and selects no rows."""
    return not node.inputs.get("rows") and graph[str(node.inputs["value"])].value.kind.axes != ()


def is_static(graph: Graph, node: Node) -> bool:
    """True where what an op or term reads and gives has a fixed shape."""
    kinds = [graph[name].value.kind for name in node.operands()]
    if node.role is Role.OP:
        kinds += [node.value.kind, *node.value.outputs.values()]
    return all(map(has_fixed_shape, kinds))


def has_fixed_shape(kind: Kind) -> bool:
    """True when a value's shape follows from the canvas and the batch size alone."""
    return not kind.opaque and kind.stack != "images" and kind.axes is not None and not _RAGGED & set(kind.axes)
