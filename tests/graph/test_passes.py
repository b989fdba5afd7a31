"""Passes one by one."""

from __future__ import annotations

import pytest
import torch

from kdflow.errors import SpecError
from kdflow.graph.facets import knowledge, needs
from kdflow.graph.node import Graph, Node, Role
from kdflow.graph.passes.fakes import Fakes
from kdflow.graph.passes.kinds import accepts
from kdflow.graph.passes.merge import merge_equal
from kdflow.kinds import ANY, BOXES, CELLS, DENSE, MAP, MASK, PYRAMID, ROWS, SIZES, TENSOR, of_axes
from kdflow.operation import OPS
from tests.graph.test_plan import HEAD, plan_of
from tests.toy import toys


@pytest.mark.parametrize(
    ("wanted", "given", "fits"),
    [
        (MAP, MAP, True), (MAP, MASK, True), (MASK, MAP, False), (TENSOR, CELLS, True), (TENSOR, DENSE, False),
        (ANY, SIZES, True), (SIZES, MAP, False), (BOXES, PYRAMID, False), (ROWS, CELLS, False),
        (of_axes(("n", "c"), None), ROWS, True),
    ],
)
def test_kinds_are_accepted_by_axes_and_stack(wanted: object, given: object, fits: bool) -> None:
    assert accepts(wanted, given) is fits  # type: ignore[arg-type]


def chain() -> Graph:
    graph = Graph()
    relu = OPS.get("transform.relu")
    graph.add(Node("in", Role.INPUT))
    graph.add(Node("a", Role.OP, {"features": "in"}, op=relu, weights="a"))
    graph.add(Node("b", Role.OP, {"features": "in"}, op=relu, weights="b"))
    graph.add(Node("c", Role.OP, {"features": "b"}, op=relu, weights="c"))
    graph.add(Node("out", Role.TERM, {"value": "a", "factors": ("c",)}))
    graph.add(Node("unused", Role.OP, {"features": "c"}, op=relu, weights="unused"))
    return graph


def test_merge_keeps_the_first_of_equal_nodes_and_redirects_their_users() -> None:
    merged = merge_equal(chain())
    assert "b" not in merged
    assert merged["c"].inputs == {"features": "a"}
    assert merged["out"].inputs == {"value": "a", "factors": ("c",)}


def test_merge_leaves_ops_with_weights_and_random_ops_apart() -> None:
    graph = Graph()
    graph.add(Node("in", Role.INPUT))
    conv, mask = OPS.get("adapter.conv"), next(OPS.get(n) for n in OPS if OPS.get(n).stochastic)
    for name in ("one", "two"):
        graph.add(Node(name, Role.OP, {"features": "in"}, op=conv, weights=name))
        graph.add(Node(f"{name}_mask", Role.OP, {"like": "in"}, op=mask, weights=f"{name}_mask"))
    assert len(merge_equal(graph)) == 5


def test_a_part_keeps_what_the_outputs_need_in_order() -> None:
    assert [n.name for n in chain().needed_by(["out"]).ordered()] == ["in", "a", "b", "c", "out"]
    assert [n.name for n in chain().needed_by(["a"]).ordered()] == ["in", "a"]


def test_graph_answers_lineage_questions() -> None:
    graph = chain()
    assert graph.upstream("c") == {"in", "b", "c"}
    assert graph.downstream("b") == {"c", "out", "unused"}
    assert "c = transform.relu(b)" in graph.describe()
    with pytest.raises(KeyError, match='no node "d"'):
        graph["d"]


@pytest.mark.parametrize(
    ("nodes", "circle"),
    [
        ("  a: {op: transform.relu, features: b}\n  b: {op: transform.relu, features: a}\n", "a -> b -> a"),
        ("  a: {op: transform.relu, features: again.logits}\n  again: {call: teacher.head, features: a}\n", "a -> again -> a"),
        (
            "  again: {call: teacher.head, features: again.logits}\n  a: {op: transform.relu, features: again.logits}\n",
            "again -> again",
        ),
        (
            "  x: {op: transform.relu, features: {student: y.student, teacher: y.teacher}}\n"
            "  y: {op: transform.relu, features: x}\n  a: {op: transform.relu, features: x.student}\n",
            "x -> y -> x",
        ),
    ],
)
def test_a_circle_is_named_once_where_it_begins(nodes: str, circle: str) -> None:
    text = f"{HEAD}nodes:\n{nodes}terms:\n  t: {{loss: loss.l1, student: a, teacher: teacher.neck, reduce: sum_of_means}}\n"
    with pytest.raises(SpecError) as caught:
        plan_of(text)
    (fault,) = caught.value.faults
    assert fault.problem == f"the nodes form a circle: {circle}"
    assert fault.line == 4


def test_a_node_may_stand_before_what_it_reads() -> None:
    nodes = "  b: {op: transform.relu, features: a}\n  a: {op: transform.standardize, features: student.neck}\n"
    terms = "terms:\n  t: {loss: loss.l1, student: b, teacher: teacher.neck, reduce: sum_of_means}\n"
    graph = plan_of(f"{HEAD}nodes:\n{nodes}{terms}").graph
    assert [node.name for node in graph.ordered() if node.name in ("a", "b")] == ["a", "b"]


def test_knowledge_and_needs_are_computed_from_the_graph() -> None:
    text = HEAD + (
        "nodes:\n  wide: {op: adapter.conv, features: student.neck, like: teacher.neck}\n"
        "  again: {call: teacher.head, features: student.neck}\n"
        "terms:\n  maps: {loss: loss.l1, student: wide, teacher: teacher.neck, schedule: {warmup: 5}, reduce: sum_of_means}\n"
        "  scores: {loss: loss.l1, student: again.logits, teacher: teacher.head.logits, reduce: sum_of_means}\n"
    )
    plan = plan_of(text, toys())
    assert knowledge(plan.graph) == ("feature", "response")
    assert needs(plan.graph, plan.method) == ("teacher_forward", "teacher_rerun", "trainable_adapter", "schedule")


def test_what_fake_tensors_refuse_is_not_logged_as_well(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    fakes = Fakes()
    one, other = fakes.value(torch.zeros(2, 64, 8, 8)), fakes.value(torch.zeros(1, 96, 1, 1))
    with pytest.raises(RuntimeError, match="broadcast"), fakes.active():
        one * other
    assert capfd.readouterr().err == caplog.text == ""
    with pytest.raises(RuntimeError, match="broadcast"), fakes.mode:
        one * other
    assert "Traceback" in capfd.readouterr().err + caplog.text, "torch itself logs it"
