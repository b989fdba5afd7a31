"""Check kinds: every input is given what it takes, or a stack of it; and say what every node gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdflow.graph.node import Graph, Node, Role, Value
from kdflow.graph.terms import OBJECTS, is_word
from kdflow.kinds import ANY, LAYERS, MAP, PYRAMID, ROWS, SCALAR, TOKENS, Kind, stacked
from kdflow.ports import BATCH_PORTS
from kdflow.spec.load import Document, Steps


def accepts(wanted: Kind, given: Kind) -> bool:
    """True when a value of kind ``given`` can be passed where ``wanted`` is asked for, as it is."""
    if wanted.name == "any" or wanted.name == given.name:
        return True
    if wanted.opaque or given.opaque:
        return False
    if wanted.stack != given.stack:
        return False
    if wanted.axes is None or wanted.axes == given.axes:
        return True
    return tuple("c" if a == "one" else a for a in given.axes or ()) == wanted.axes


def place_kinds(graph: Graph, node: Node, document: Document) -> bool:
    """Fill in the kind of ``node``'s value and how it is mapped; False after recording a fault."""
    if node.role is Role.SLICE:
        return _slice(graph, node, document)
    if node.role is Role.PICK and node.port is None:
        source = graph[str(node.inputs["stage"])].value
        node.value = Value(source.outputs.get(str(node.key), ANY), strides=source.strides)
    if node.role is Role.OP:
        return _op(graph, node, document)
    return node.role is not Role.TERM or _term(graph, node, document)


def _slice(graph: Graph, node: Node, document: Document) -> bool:
    source = graph[str(node.inputs["stack"])].value
    if source.kind.stack is None:
        document.report(node.path, f"{node.inputs['stack']} is a {source.kind} and has no entries to choose from")
        return False
    strides = source.strides[node.key] if source.strides and _inside(node.key, len(source.strides)) else ()
    single = isinstance(node.key, int)
    node.value = Value(
        source.kind.element() if single else source.kind,
        strides=(strides,) if isinstance(strides, int) else tuple(strides),
        form=source.form,
    )
    return True


def _inside(key: Any, length: int) -> bool:
    return isinstance(key, slice) or -length <= key < length


def _op(graph: Graph, node: Node, document: Document) -> bool:
    op = node.op
    if op is None:
        raise AssertionError(f"op node without an op: {node.name}")
    wanted = op.observes if node.prepared else op.inputs
    lifts: dict[str, str] = {}
    elements: dict[str, Kind] = {}
    for name, operand in node.inputs.items():
        if name not in wanted:
            continue
        kinds = [graph[o].value.kind for o in ((operand,) if isinstance(operand, str) else operand)]
        for kind in kinds:
            if accepts(wanted[name].kind, kind):
                elements[name] = kind
            elif (
                kind.stack
                and wanted[name].kind.stack is None
                and accepts(wanted[name].kind, kind.element())
                and not wanted[name].many
            ):
                lifts[name], elements[name] = kind.stack, kind.element()
            else:
                document.report(
                    (*node.path, name),
                    f"{op.name} takes {_article(wanted[name].kind)} here, and {operand} is {_article(kind)}",
                )
                return False
    if len(set(lifts.values())) > 1:
        document.report(
            node.path,
            f"{op.name} is given stacks over {' and '.join(sorted(set(lifts.values())))}; choose one entry with [i]",
        )
        return False
    node.lift, node.lifted = next(iter(lifts.values()), None), tuple(lifts)
    return _result(graph, node, elements, document)


def _result(graph: Graph, node: Node, elements: Mapping[str, Kind], document: Document) -> bool:
    if node.op is None:
        return False
    given = node.op.output_kinds(elements, node.options)
    results = given.values() if isinstance(given, dict) else [given]
    if nested := [kind.stack for kind in results if kind.stack and node.lift]:
        lists = f"gives a list over {nested[0]} by itself, and is given one over {node.lift}"
        document.report(node.path, f"{node.op.name} {lists}; choose one entry with [i]")
        return False
    strides = _strides(graph, node)
    form = node.port.form if node.port else ""
    if isinstance(given, dict):
        node.value = Value(ANY, {k: stacked(v, node.lift) for k, v in given.items()}, strides=strides)
    else:
        node.value = Value(stacked(given, node.lift), strides=strides, form=form)
    return True


def _strides(graph: Graph, node: Node) -> tuple[int, ...]:
    """Strides of the first input that has them."""
    for operand in node.operands():
        if strides := graph[operand].value.strides:
            return strides
    return ()


def _term(graph: Graph, node: Node, document: Document) -> bool:
    value = graph[str(node.inputs["value"])].value.kind
    if value.opaque and value is not ANY:
        document.report(node.path, f"a term needs a tensor, and {node.inputs['value']} is {_article(value)}")
        return False
    node.value = Value(SCALAR)
    if not _images_possible(graph, node, document, value):
        return False
    if not _axes_exist(graph, node, document, value) or not _divisors(graph, node, document):
        return False
    return all(
        _factor(graph, node, document, (*node.path, key), operand, value)
        for key in ("factors", "rows")
        for operand in node.inputs.get(key, ())
    )


def asks_for_images(graph: Graph, node: Node) -> list[tuple[str, str]]:
    """Keys of a term's reduction that need to know images, though the loss has no axis b, and how they are written."""
    axes = graph[str(node.inputs["value"])].value.kind.axes or ()
    if node.term is None or "b" in axes:
        return []
    reduce = node.term.reduce
    student = graph[str(node.inputs["student"])].value.kind.axes or () if "student" in node.inputs else ()
    asked = [("scope", "scope: image")] if reduce.scope == "image" else []
    asked += [("floor", "floor: b")] if reduce.floor == "b" else []
    return asked + ([("over", "b")] if "b" in reduce.over and "n" in axes and "b" not in student else [])


def _images_possible(graph: Graph, node: Node, document: Document, value: Kind) -> bool:
    """What is reduced by image, or divided by their number, has an axis b or rows."""
    asked = asks_for_images(graph, node)
    if not asked or ("n" in (value.axes or ()) and value.stack != "images"):
        return True
    key, words = asked[0]
    problem = f"the axes here are {', '.join(value.axes or ()) or 'none'}, without b"
    if value.stack == "images":
        problem = "the entries of this stack are the images already; levels: says how they are joined"
    document.report((*node.path, "reduce", key), f"{words} asks for images, and {problem}")
    return False


def _axes_exist(graph: Graph, node: Node, document: Document, value: Kind) -> bool:
    """Axes named in a reduction must be axes of what is reduced (in ``over``, also of the student's tensor)."""
    if node.term is None or value.axes is None:
        return True
    reduce, before = node.term.reduce, len(document.faults)
    student = node.inputs.get("student")
    counted = {*value.axes, *((graph[str(student)].value.kind.axes or ()) if student else ()), "rows", "elements"}
    counted |= {"b"} if "n" in value.axes and value.stack != "images" else set()
    over = [part for part in reduce.over if isinstance(part, str) and is_word(part)]
    summed = () if reduce.sum == "all" else reduce.sum
    for key, words, known in (
        ("over", over, counted),
        ("sum", summed, set(value.axes)),
        ("root", reduce.root, set(value.axes)),
    ):
        for word in words:
            if word not in known:
                problem = f'{_article(value)} has no axis "{word}"; its axes are {", ".join(value.axes) or "none"}'
                document.report((*node.path, "reduce", key), problem)
    return len(document.faults) == before


_INDICES = ("labels", "levels", "indices")
"""Last words of ports that hold numbers of classes, levels or places."""


def _divisors(graph: Graph, node: Node, document: Document) -> bool:
    """What a term is divided by is a mask, weights or a count: something whose sum says how much there is."""
    if node.term is None:
        return True
    written = [i for i, part in enumerate(node.term.reduce.over) if isinstance(part, str) and not is_word(part)]
    before = len(document.faults)
    for index, operand in zip(written, node.inputs.get("over", ())):
        kind, source = graph[operand].value.kind, graph[operand]
        if operand == "targets.boxes" and node.term.reduce.over[index] == OBJECTS:
            continue
        while source.role is Role.SLICE:
            source = graph[str(source.inputs["stack"])]
        port = source.port
        named = port is not None and source.name.rpartition(".")[2] in _INDICES
        compared = port is not None and (port.node is not None or bool(port.form))
        chosen = kind.name == "boxes" and not source.owner and operand not in BATCH_PORTS  # by the method; they are counted
        measured = compared and not chosen and kind.name not in ("masks", "scalar")
        boxes = kind.name == "boxes entry" or (kind.name == "boxes" and not chosen)
        places_or_names = kind.opaque or boxes or kind.name in ("labels", "priors") or operand == "images"
        if kind is not ANY and (places_or_names or named or measured):
            document.report(
                (*node.path, "reduce", "over", index),
                f"{operand} is {_article(kind)}, and its sum says nothing about how much is compared; divide by a mask, "
                "weights, a count such as {op: stats.count, values: ...}, or objects, the number of ground-truth objects",
            )
    return len(document.faults) == before


def _factor(graph: Graph, node: Node, document: Document, path: Steps, operand: str, value: Kind) -> bool:
    kind = graph[operand].value.kind
    axes = {"c" if a == "one" else a for a in kind.axes or ()}
    known = {*(value.axes or ()), "c"}
    if kind.opaque or kind.axes is None or not axes <= known:
        document.report(
            path,
            f"{operand} is {_article(kind)} and cannot weigh {_article(value)} with the axes {', '.join(value.axes or ())}",
        )
        return False
    if kind.stack not in (None, value.stack):
        document.report(
            path,
            f"{operand} is a stack over {kind.stack}, the loss is {'a stack over ' + value.stack if value.stack else 'no stack'}",
        )
        return False
    return True


def _article(kind: Kind) -> str:
    return f"{'an' if kind.name[0] in 'aeiou' else 'a'} {kind}"


def kind_of_value(value: Any) -> Kind:
    """Kind of an interior tap, read off its shape; ANY where that says too little."""
    if isinstance(value, (list, tuple)) and value:
        inner = kind_of_value(value[0])
        return {MAP: PYRAMID}.get(inner, LAYERS if inner.axes and len(inner.axes) == 3 else ANY)
    dims = getattr(value, "dim", None)
    if dims is None:
        return ANY
    return {4: MAP, 3: TOKENS, 2: ROWS, 0: SCALAR}.get(dims(), ANY)
