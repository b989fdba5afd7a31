"""The graph: what detectors do by themselves, and what a method adds, as one networkx DAG."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import networkx as nx

from kdflow.errors import choices
from kdflow.escape import one_line
from kdflow.graph.copies import CopiedStages
from kdflow.graph.svg import layered_svg
from kdflow.kinds import ANY, Kind
from kdflow.operation import Op
from kdflow.ports import Port, Stage
from kdflow.spec.load import Steps
from kdflow.spec.method import TermEntry

Operand = str | tuple[str, ...]


class Role(Enum):
    """What a node does."""

    INPUT = "input"
    STAGE = "stage"
    PICK = "pick"
    SLICE = "slice"
    OP = "op"
    TERM = "term"


@dataclass
class Value:
    """What is known of a node's result before anything runs.

    Attributes:
        kind: Kind of the value; a dict of kinds for an op with several outputs.
        strides: Input pixels per cell of each level.
        form: Meaning of the numbers (:class:`kdflow.ports.Port`).
        boxes: Node of the boxes per image that the rows of the value belong to, where that is known.
        fake: The value itself as fake tensors, once shapes were inferred.
    """

    kind: Kind = ANY
    outputs: dict[str, Kind] = field(default_factory=dict)
    strides: tuple[int, ...] = ()
    form: str = ""
    boxes: str = ""
    fake: Any = None


@dataclass
class Node:
    """One node.

    Attributes:
        name: Unique; ports read ``student.neck``, nodes of the method and outputs of calls (``shared.logits``) are named as in
            YAML, terms read ``kd/<name>``.
        role: What it does.
        inputs: Argument -> node name, or several.
        options: Literals passed beside the inputs.
        path: Place in the method's document, for faults.
        owner: Detector it belongs to (stages, ports).
        stage: Stage name (stages).
        run: The stage to run (stages).
        op: The operation (ops).
        key: Key, index or slice that is taken (picks, slices).
        port: Port that a pick or input stands for.
        term: Declaration of a term.
        lift: Stack the op is mapped over, or None.
        lifted: Inputs that are stacks of what the op takes.
        share: One set of weights for all entries of a stack.
        weights: Name under which the op's or copy's weights are kept; nodes with equal names share them.
        copied: The copies that a stage of ``modules: {name: {copy: ...}}`` belongs to.
        taxonomy: Taxonomy nodes of a term.
        value: What is known of the result.
        module: The executable, once sized.
        prepared: The op's inputs are observed before training; in training its value comes from its state.
        given: The value handed in from outside (inputs of an evaluation).
        auxiliary: A term that trains modules of the method and reads no student tensor.
        lonely_norms: BatchNorm layers inside that see one value per channel and image.
    """

    name: str
    role: Role
    inputs: dict[str, Operand] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    path: Steps = ()
    owner: str = ""
    stage: str = ""
    run: Stage | None = None
    op: Op | None = None
    key: Any = None
    port: Port | None = None
    term: TermEntry | None = None
    lift: str | None = None
    lifted: tuple[str, ...] = ()
    share: bool = False
    weights: str = ""
    copied: CopiedStages | None = None
    taxonomy: tuple[str, ...] = ()
    value: Value = field(default_factory=Value)
    module: Any = None
    prepared: bool = False
    given: Any = None
    auxiliary: bool = False
    lonely_norms: tuple[str, ...] = ()

    def operands(self) -> Iterator[str]:
        """Names of all inputs."""
        for operand in self.inputs.values():
            yield from (operand,) if isinstance(operand, str) else operand

    @property
    def box(self) -> str:
        """The node by whose name it is drawn: a pick stands in the box of its stage or op."""
        return str(self.inputs["stage"]) if self.role is Role.PICK else self.name

    @property
    def stochastic(self) -> bool:
        """True when it draws random numbers."""
        return bool((self.run and self.run.stochastic) or (self.op and self.op.stochastic))


class Graph:
    """Nodes and their edges; every pass takes a graph and returns one."""

    def __init__(self) -> None:
        self.dag: nx.DiGraph[str] = nx.DiGraph()
        self._order: dict[str, int] = {}

    def add(self, node: Node) -> str:
        """Add a node whose inputs exist already; returns its name."""
        if node.name in self.dag:
            raise ValueError(f'the graph has a node "{node.name}" already')
        self._order[node.name] = len(self._order)
        self.dag.add_node(node.name, node=node)
        for operand in node.operands():
            self.dag.add_edge(operand, node.name)
        return node.name

    def connect(self, name: str, key: str, operand: str) -> None:
        """Give a node one more input, which exists already."""
        self[name].inputs[key] = operand
        self.dag.add_edge(operand, name)

    def disconnect(self, name: str, key: str) -> None:
        """Take an input from a node."""
        operand = self[name].inputs.pop(key)
        for one in {operand} if isinstance(operand, str) else set(operand):
            if one not in self[name].operands():
                self.dag.remove_edge(one, name)

    def _repr_svg_(self) -> str:
        """Its drawing, in a notebook."""
        return layered_svg(self.boxes())

    def boxes(self) -> nx.DiGraph[str]:
        """The graph as a method's author sees it: a stage and its ports are one box; parts that no term needs are left out."""
        view: nx.DiGraph[str] = nx.DiGraph()
        needed = self.upstream(*(term.name for term in self.of_role(Role.TERM) if term.name.startswith("kd/")))
        for node in self.ordered():
            if node.name in needed:
                view.add_node(node.box, label=_label(node), group=_group(self[node.box]))
                sources = [self[operand].box for operand in node.operands() if operand in needed]
                view.add_edges_from((source, node.box) for source in sources if source != node.box)
        return view

    def __getitem__(self, name: str) -> Node:
        try:
            node: Node = self.dag.nodes[name]["node"]
        except KeyError:
            raise KeyError(f'no node "{name}".{choices(name, self.dag)}') from None
        return node

    def __contains__(self, name: str) -> bool:
        return name in self.dag

    def __len__(self) -> int:
        return len(self.dag)

    def ordered(self) -> list[Node]:
        """All nodes, inputs before users, otherwise in the order of declaration (random draws follow it)."""
        names = nx.lexicographical_topological_sort(self.dag, key=lambda name: self._order[name])
        return [self[name] for name in names]

    def of_role(self, role: Role) -> list[Node]:
        """Nodes of one role, ordered."""
        return [node for node in self.ordered() if node.role is role]

    def taken(self, stage: str) -> tuple[str, ...]:
        """Keys of a stage's result that nodes of this graph pick."""
        users = (self[name] for name in self.dag.successors(stage))
        return tuple(sorted({node.key for node in users if node.role is Role.PICK}))

    def upwards(self, *names: str, through: Callable[[Node], Iterable[str]] | None = None) -> Iterator[Node]:
        """These nodes and everything above them, each once, the nearest first.

        Args:
            names: Where the walk begins.
            through: Which operands of a node it follows; by default all that a training step needs, so nothing that a
                preparation observes.
        """
        waiting, seen = deque(names), set[str]()
        while waiting:
            name = waiting.popleft()
            if name in seen:
                continue
            seen.add(name)
            node = self[name]
            yield node
            waiting.extend(_in_training(node) if through is None else through(node))

    def upstream(self, *names: str) -> set[str]:
        """Names of everything that these nodes need in a training step, themselves among it."""
        return {node.name for node in self.upwards(*names)}

    def downstream(self, name: str) -> set[str]:
        """Everything that uses ``name``."""
        self[name]
        return set(nx.descendants(self.dag, name))

    def keep(self, names: Iterable[str], *, training: bool = True) -> Graph:
        """The graph of these nodes alone; in training, preparations stand without what they observe."""
        kept, result = set(names), Graph()
        for node in self.ordered():
            if node.name in kept:
                result.add(replace(node, inputs={}) if node.prepared and training else node)
        return result

    def needed_by(self, outputs: Iterable[str]) -> Graph:
        """The part that these nodes need in a training step; what no term needs does not run, and nobody has to say so."""
        return self.keep(self.upstream(*outputs))

    def cut_at(self, names: Iterable[str]) -> Graph:
        """The graph with these nodes as inputs, whose values come from outside."""
        given, result = set(names), Graph()
        for node in self.ordered():
            result.add(Node(node.name, Role.INPUT, value=node.value) if node.name in given else node)
        return result

    def describe(self) -> str:
        """One line per node: name, what it does, its inputs."""
        return "\n".join(f"{n.name} = {what(n)}({', '.join(n.operands())})" for n in self.ordered())


def _in_training(node: Node) -> Iterable[str]:
    return () if node.prepared else node.operands()


def what(node: Node) -> str:
    """What a node does, in a few words."""
    if node.role is Role.STAGE:
        return f"{'copied ' if node.copied and node.weights != node.owner else ''}{node.owner}.{node.stage}"
    if node.role is Role.OP and node.op is not None:
        return node.op.name + (f" per {node.lift.rstrip('s')}" if node.lift else "")
    if node.role is Role.SLICE:
        return f"[{show_key(node.key)}]"
    return node.role.value


def _label(node: Node) -> str:
    if node.role is Role.TERM and node.term is not None:
        return f"{one_line(node.name)}\n{one_line(', '.join(node.taxonomy))}\nweight {node.term.signed_weight:g}"
    if node.role in (Role.OP, Role.SLICE):
        return f"{one_line(node.name)}\n{one_line(what(node))}"
    return one_line(node.box)


def _group(node: Node) -> str:
    if node.role is Role.TERM:
        return "term"
    if node.copied and node.weights == node.owner:
        return "op"
    if node.owner:
        return "student" if node.owner == "student" else "teacher"
    return "op" if node.role in (Role.OP, Role.SLICE) else "batch"


def show_key(key: Any) -> str:
    """An index or slice as written in a reference."""
    if isinstance(key, slice):
        return f"{'' if key.start is None else key.start}:{'' if key.stop is None else key.stop}"
    return str(key)
