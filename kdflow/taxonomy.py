"""The architecture taxonomy: at which place of a detector a distillation loss acts (``taxonomy/tree.yaml``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from kdflow.errors import KdflowError, choices
from kdflow.registry import UnknownNameError
from kdflow.resources import taxonomy_folder


@dataclass(frozen=True)
class Node:
    """One place in the taxonomy.

    Attributes:
        id: ``cnn/neck``; a root has no slash.
        parent: Id of the node above, None for a root.
        title: Name for people.
        definition: Which student tensors belong here.
        boundaries: What is decided where the definition leaves room.
    """

    id: str
    parent: str | None
    title: str
    definition: str
    boundaries: tuple[str, ...] = ()

    @property
    def root(self) -> str:
        """``cnn`` or ``transformer``."""
        return self.id.partition("/")[0]


@dataclass(frozen=True)
class Tree:
    """All nodes, in the order of the file, a parent before its children.

    Attributes:
        nodes: Id -> node.
        source: The review that the names come from.
        provenance: What is the review's and what is ours.
        rule: How a term finds its node.
    """

    nodes: Mapping[str, Node]
    source: str = ""
    provenance: str = ""
    rule: str = ""

    def __contains__(self, node: object) -> bool:
        return node in self.nodes

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def roots(self) -> tuple[Node, ...]:
        """The nodes without a parent."""
        return tuple(node for node in self if node.parent is None)

    @property
    def leaves(self) -> tuple[Node, ...]:
        """The nodes that terms are placed at."""
        parents = {node.parent for node in self}
        return tuple(node for node in self if node.id not in parents)

    def node(self, name: str) -> Node:
        """The node of this id; raises UnknownNameError with close matches."""
        if name not in self.nodes:
            raise UnknownNameError(f'no taxonomy node "{name}".{choices(name, self.nodes)}')
        return self.nodes[name]

    def children(self, name: str) -> tuple[Node, ...]:
        """The nodes directly below ``name``."""
        parent = self.node(name).id
        return tuple(node for node in self if node.parent == parent)

    def ancestors(self, name: str) -> tuple[Node, ...]:
        """The nodes above ``name``, nearest first."""
        above: list[Node] = []
        parent = self.node(name).parent
        while parent is not None:
            above.append(self.nodes[parent])
            parent = self.nodes[parent].parent
        return tuple(above)

    def covers(self, upper: str, name: str) -> bool:
        """True when ``name`` is ``upper`` or stands below it; False for a name that is not in this tree."""
        above = self.node(upper)
        return name in self and (name == upper or above in self.ancestors(name))

    def depth(self, name: str) -> int:
        """0 for a root."""
        return len(self.ancestors(name))


@cache
def load_tree(path: Path | None = None) -> Tree:
    """The taxonomy, read once.

    Args:
        path: Another ``tree.yaml``; none takes the one that comes with kdflow.

    Raises:
        KdflowError: The file is no tree: a key is missing or unknown, an id is written twice, a parent does not come
            first.
    """
    file = path or taxonomy_folder() / "tree.yaml"
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise KdflowError(f"{file}: cannot be read: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("nodes"), list):
        raise KdflowError(f'{file}: a list "nodes" is needed')
    nodes: dict[str, Node] = {}
    for entry in data["nodes"]:
        node = _node(entry, nodes, file)
        nodes[node.id] = node
    return Tree(nodes, *(str(data.get(key, "")) for key in ("source", "provenance", "rule")))


_KEYS = {"id", "parent", "title", "definition", "boundaries"}


def _node(entry: Any, known: Mapping[str, Node], file: Path) -> Node:
    if not isinstance(entry, dict) or set(entry) != _KEYS:
        raise KdflowError(f"{file}: every node has exactly the keys {', '.join(sorted(_KEYS))}; found {entry!r}")
    node = Node(entry["id"], entry["parent"], entry["title"], entry["definition"], tuple(entry["boundaries"]))
    if node.id in known:
        raise KdflowError(f'{file}: the node "{node.id}" is written twice')
    if node.parent is not None and node.parent not in known:
        raise KdflowError(f'{file}: the parent "{node.parent}" of "{node.id}" must come before it')
    if node.id.rpartition("/")[0] != (node.parent or ""):
        raise KdflowError(f'{file}: the id "{node.id}" must be its parent\'s id, a slash, and one word')
    return node
