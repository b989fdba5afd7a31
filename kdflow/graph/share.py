"""Share: what several plans compute alike, from the batch and the same teachers, is computed once for all of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kdflow.graph.early import Early, FedBatch, feed
from kdflow.graph.lower import lower
from kdflow.graph.node import Graph, Node, Role
from kdflow.graph.passes.merge import identity, renamed_operand
from kdflow.graph.plan import Plan
from kdflow.graph.runtime import Streams
from kdflow.ports import BATCH_PORTS, Batch


class Shared:
    """One pass for several plans over everything that depends on the batch and on frozen teachers alone.

    Equal nodes are merged across the plans, what none of them needs does not run, and each plan is cut where its own part
    begins. A value is shared only if nothing upstream of it is a student's, trains, or was prepared by one plan, so no
    gradient is lost: a plan alone has none there either. A node that draws is shared by plans of one seed only, and draws
    what each would draw alone.

    Args:
        plans: Plans that run on one stream of batches, each in the phase that it is to run in. Stages merge where the plans hold
            the very same teacher objects.
        ahead: What of the pass needs images alone is left to :meth:`early`, which may be called before the pass.
    """

    def __init__(self, plans: Sequence[Plan], ahead: bool = False) -> None:
        self.graph = Graph()
        self.names: list[dict[str, str]] = []
        self._streams: dict[int, Streams] = {}
        self._first: dict[Any, str] = {}
        for plan in plans:
            cut, places = self._take(plan)
            plan.cut(cut)
            self.names.append({name: places[name] for name in cut})
        outputs = sorted({place for names in self.names for place in names.values()})
        self.graph = self.graph.needed_by(outputs)
        self._early = Early(self.graph, lambda _: ahead, outputs)
        rest = self.graph.cut_at(self._early.cut).needed_by(outputs)
        self._inputs = (*BATCH_PORTS, *self._early.cut)
        self._pass = lower(rest, outputs, self._inputs) if outputs else None

    def early(self, batch: Batch) -> FedBatch:
        """The batch with what :meth:`__call__` would compute of it before anything else."""
        return self._early(batch)

    def __call__(self, batch: Batch, step: int, part: int = 0) -> list[FedBatch]:
        """The batch for each plan, in the order of the plans, with what was computed for it.

        Args:
            batch: On the teachers' device, from :meth:`early` or not.
            step: Optimizer steps done; random streams depend on it.
            part: As in :meth:`kdflow.graph.plan.Plan.advance`.
        """
        for streams in self._streams.values():
            streams.step, streams.part = step, part
        given = (batch if isinstance(batch, FedBatch) else self.early(batch)).values()
        values = self._pass(*[given[name] for name in self._inputs]) if self._pass is not None else {}
        return [feed(batch, {name: values[place] for name, place in names.items()}) for names in self.names]

    def _take(self, plan: Plan) -> tuple[list[str], dict[str, str]]:
        """Merge a plan's common part into the graph: where the plan is cut, and node of the plan -> node of the graph."""
        whole = plan.graph.needed_by(plan.active)
        places: dict[str, str] = {}
        read: set[str] = set()
        for node in whole.ordered():
            if _is_common(node, plan) and all(operand in places for operand in node.operands()):
                places[node.name] = self._merge(node, places, plan)
            else:
                read.update(node.operands())
        return [name for name in places if name in read and name not in BATCH_PORTS], places

    def _merge(self, node: Node, places: Mapping[str, str], plan: Plan) -> str:
        """The place of a plan's node in the graph: an equal node that is there, or a new one."""
        if node.role is Role.INPUT:
            return node.name if node.name in self.graph else self.graph.add(node)
        own = replace(node, inputs={key: renamed_operand(o, places) for key, o in node.inputs.items()})
        stream = (plan.seed, node.name) if node.stochastic else ()
        key = (identity(_untapped(own)), id(own.run.run) if own.run else 0, own.lift, own.lifted, stream)
        if key not in self._first:
            own.name = self._free(node.name)
            own.module = self._module(node, plan)
            self._first[key] = self.graph.add(own)
        found = self.graph[self._first[key]]
        if taps := node.options.get("taps"):
            found.module.taps.update(taps)
            found.module.run._compiled_call_impl = None  # a compiled stage would not see the taps' hooks
        return found.name

    def _free(self, name: str) -> str:
        """A name that the graph does not have; unlike nodes of two methods may have one name."""
        candidates = (name, *(f"{name}~{count}" for count in range(2, len(self.graph) + 3)))
        return next(candidate for candidate in candidates if candidate not in self.graph)

    def _module(self, node: Node, plan: Plan) -> Any:
        """The node's executable for many plans: with all their taps, and random streams that no single plan moves."""
        module = copy.copy(node.module)
        if node.role is Role.STAGE:
            module.taps = {}
        if node.stochastic and plan.seed is not None:
            module.streams = self._streams.setdefault(plan.seed, Streams(plan.seed))
        return module


def _is_common(node: Node, plan: Plan) -> bool:
    """True when every plan would compute the same from the same inputs, and none can change how."""
    if node.role is Role.INPUT:
        return node.name in BATCH_PORTS and node.given is None
    if node.prepared or node.role is Role.TERM or (node.stochastic and plan.seed is None):
        return False
    if node.role is Role.STAGE:
        return node.owner != "student" and not plan.moves(node.module)
    return node.op is None or not node.op.is_module


def _untapped(node: Node) -> Node:
    """The node without its interior taps: a stage that runs once can hand out the taps of all."""
    return replace(node, options={key: value for key, value in node.options.items() if key != "taps"})
