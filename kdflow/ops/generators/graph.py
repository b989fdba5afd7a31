"""Every place learns from a small graph of regions that the map itself forms."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from kdflow.kinds import Pyramid
from kdflow.operation import op

Positive = Annotated[int, Field(gt=0)]


class Reasoning(nn.Module):
    """``V -> state(relu(V + node(V)))`` of a graph (B, states, nodes): first along the nodes, then along the states."""

    def __init__(self, nodes: int, states: int) -> None:
        super().__init__()
        self.node = nn.Conv1d(nodes, nodes, 1)
        self.state = nn.Conv1d(states, states, 1, bias=False)

    def forward(self, graph: Tensor) -> Tensor:
        """The same shape."""
        along_nodes = self.node(graph.transpose(1, 2)).transpose(1, 2)
        result: Tensor = self.state((graph + along_nodes).relu())
        return result


class GraphBlock(nn.Module):
    """The block of one map."""

    def __init__(self, channels: int, nodes: int, eps: float) -> None:
        super().__init__()
        self.to_state = nn.Conv2d(channels, 2 * nodes, 1)
        self.to_node = nn.Conv2d(channels, nodes, 1)
        self.graph = Reasoning(nodes, 2 * nodes)
        self.extend = nn.Conv2d(2 * nodes, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=eps)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        states, places = self.to_state(features).flatten(2), self.to_node(features)
        graph = self.graph(torch.einsum("bsp,bnp->bsn", states, places.flatten(2)))
        added: Tensor = self.bn(self.extend(torch.einsum("bsn,bnhw->bshw", graph, places)))
        return features + added


@op("generator.graph")
class Graph(nn.Module):
    """Global reasoning (GloRe) per level: ``F + BN(extend(G(V) P))`` with ``V = to_state(F) P^T``. Trained, not exported.

    P = to_node(F) (m, H*W) shares the places out among m nodes, V (2m, m) holds the state of every node (a sum over the places),
    and ``G(V) = W_state relu(V + W_node V)``. Layers are 1x1 convolutions, named ``blocks.<level>`` with ``to_state``,
    ``to_node``, ``graph.node``, ``graph.state`` and ``extend`` (both without bias) and
    ``bn``. Sources: Chen et al., CVPR 2019; DRKD (arXiv
    2302.05637), whose levels differ in m.

    Args:
        nodes: m per level; the last entry also holds for all further levels.
        eps: Of the BatchNorm.
    """

    blocks: nn.ModuleList

    def __init__(self, nodes: tuple[Positive, ...] = (64,), eps: Annotated[float, Field(gt=0)] = 1e-4) -> None:
        super().__init__()
        self.nodes, self.eps = nodes or (64,), eps

    def build(self, features: Pyramid) -> None:
        """One block per level."""
        widths = [self.nodes[min(level, len(self.nodes) - 1)] for level in range(len(features))]
        self.blocks = nn.ModuleList(
            GraphBlock(one.shape[1], nodes, self.eps) for one, nodes in zip(features, widths, strict=True)
        )

    def forward(self, features: Pyramid) -> Pyramid:
        """(B, C, H, W) -> (B, C, H, W) per level.

        Args:
            features: Maps per level.
        """
        return [block(level) for block, level in zip(self.blocks, features, strict=True)]
