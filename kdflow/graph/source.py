"""The wiring of a detector as plain Python on the library's own model, for the exported student."""

from __future__ import annotations

from kdflow.errors import UsageError
from kdflow.graph.node import Graph, Role, show_key
from kdflow.graph.rewire import read_wiring
from kdflow.ports import Detector
from kdflow.source import Source
from kdflow.spec.load import Document
from kdflow.spec.method import Method

_INPUT = "inputs[0]"


def rewired_source(detector: Detector, owner: str, graph: Graph, method: Method) -> Source:
    """The source with the method's wiring as hooks on the library's modules.

    An argument of a stage becomes a hook before the module that does the stage's work, a port a hook behind it. Both compute
    from that module's own input.

    Args:
        detector: The detector, as its library builds it.
        owner: Its name in the graph.
        graph: The compiled graph.
        method: Whose wiring it is.

    Raises:
        UsageError: The model has no source, a place is no single module of the library, or what stands there is more than an
            expression of that module's input.
    """
    places = [place for own, place in read_wiring(method, Document(""), {owner: detector}) if own == owner]
    return detector.source().then(*(_hook(detector, owner, graph, place) for place in places))


def _hook(detector: Detector, owner: str, graph: Graph, place: str) -> str:
    """The line that changes one place."""
    name, _, argument = place.partition(":")
    stage = detector.stages[name if argument else detector.ports[name].stage]
    first = next(iter(stage.reads))
    if not stage.library or (argument or first) != first or (not argument and len(stage.reads) > 1):
        raise UsageError(
            f'"{owner}.{place}" is no single module of {detector.library}, so a plain model cannot be rewired there'
        )
    node = str(graph[f"{owner}:{name}"].inputs[argument]) if argument else _reader(detector, owner, graph, name)
    value = _expression(graph, node, f"{owner}.{stage.reads[first]}")
    module = f'model.get_submodule("{stage.library}")'
    if argument:
        return f"{module}.register_forward_pre_hook(lambda module, inputs: ({value},))"
    return f"{module}.register_forward_hook(lambda module, inputs, output: {value})"


def _reader(detector: Detector, owner: str, graph: Graph, port: str) -> str:
    """The node that stands for a port, read off a stage that uses it."""
    for name, stage in detector.stages.items():
        for argument, wanted in stage.reads.items():
            if wanted == port and f"{owner}:{name}" in graph:
                return str(graph[f"{owner}:{name}"].inputs[argument])
    raise UsageError(f'no stage reads "{owner}.{port}"')


def _expression(graph: Graph, name: str, given: str) -> str:
    """A node as Python, from the value of the node ``given``."""
    node = graph[name]
    if name == given:
        return _INPUT
    if node.role is Role.SLICE:
        return f"{_expression(graph, str(node.inputs['stack']), given)}[{show_key(node.key)}]"
    if node.role is Role.OP and node.op is not None and node.op.source:
        inputs = {key: _expression(graph, str(operand), given) for key, operand in node.inputs.items()}
        if not node.lifted:
            return node.op.source.format(**inputs, **node.options)
        (stack,) = node.lifted
        return f"[{node.op.source.format(**{**inputs, stack: 'each'}, **node.options)} for each in {inputs[stack]}]"
    what = node.op.name if node.op else name
    raise UsageError(f'"{name}" ({what}) has no plain form outside kdflow, or needs more than {given}')
