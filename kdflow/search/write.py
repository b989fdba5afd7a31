"""The method file with other values in it: text, comments and order stay as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kdflow.errors import UsageError
from kdflow.experiment.find import find_method
from kdflow.experiment.reading import is_bench_path
from kdflow.files import write_text
from kdflow.spec.method import Method
from kdflow.spec.paths import steps_of
from kdflow.spec.resolve import MethodSpec, parse_method
from kdflow.spec.variants import Context


def variant_text(bench: str, values: Mapping[str, Any], reason: str, indent: str = "  ") -> str:
    """An entry of ``variants:`` that sets values on one bench."""
    lines = [f"- when: {{bench: {json.dumps(bench)}}}", "  set:"]
    lines += [f"    {path}: {json.dumps(value)}" for path, value in values.items()]
    return "\n".join(indent + line for line in [*lines, f"  reason: {json.dumps(reason)}"]) + "\n"


def filled(
    spec: MethodSpec, text: str, values: Mapping[str, Any], context: Context, overrides: Mapping[str, Any], reason: str
) -> str:
    """``text`` with ``values`` in it; what cannot be written where it stands becomes a variant of this bench.

    The result is read back: on this bench it must resolve to the method that was run, in every value.

    Args:
        spec: The method that was searched.
        text: Its file.
        values: Dotted path -> value; those of the bench are named in a comment, because a method cannot hold them.
        context: What variants ask (``bench``, ``student.family`` ...).
        overrides: What was set in all trials beside them.
        reason: Where the values come from.

    Raises:
        UsageError: The file cannot express the values.
    """
    own = {path: value for path, value in {**overrides, **values}.items() if not is_bench_path(path)}
    wanted = spec.resolve(context, own)
    base = edited = _in_place(text, own)
    sets: dict[str, Any] = {}
    while new := {p: v for p, v in _differences(wanted, _resolved(edited, spec, context)).items() if p not in sets}:
        sets |= new  # a value that is set moves those that are copied from it (like:), so it may take several rounds
        edited = _with_variant(base, context["bench"], sets, reason)
    left = _differences(wanted, _resolved(edited, spec, context))
    if left:
        raise UsageError(f"the file cannot hold these values: {', '.join(left)}. Next: run it with --set PATH=VALUE")
    of_bench = {path: value for path, value in values.items() if is_bench_path(path)}
    notes = [reason, *(f"of the bench: --set {path}={json.dumps(value)}" for path, value in of_bench.items())]
    return _with_comment(edited, notes)


def write_best(
    path: Path, spec: MethodSpec, values: Mapping[str, Any], context: Context, overrides: Mapping[str, Any], reason: str
) -> Path:
    """Write :func:`filled` of the spec's own file; raises UsageError when there is no such file or it cannot hold them."""
    source = Path(spec.document.file)
    if not source.is_file():
        raise UsageError(f"{path} is not written: the method was not read from a file")
    return write_text(path, filled(spec, source.read_text(encoding="utf-8"), values, context, overrides, reason))


def _resolved(text: str, spec: MethodSpec, context: Context) -> Method:
    return parse_method(text, spec.document.file, find_method).resolve(context)


def _differences(wanted: Method, found: Method) -> dict[str, Any]:
    """Leaves of ``wanted`` that are something else in ``found``: dotted path -> wanted value."""
    exclude = {"search", "variants"}
    ours, theirs = (_leaves(m.model_dump(mode="json", exclude=exclude)) for m in (wanted, found))
    return {path: value for path, value in ours.items() if path not in theirs or theirs[path] != value}


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {k: v for key, item in value.items() for k, v in _leaves(item, f"{path}.{key}" if path else str(key)).items()}
    return {path: value}


def _in_place(text: str, values: Mapping[str, Any]) -> str:
    """Replace values that the text writes down at their own path."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    spans: list[tuple[int, int, str]] = []
    for path, value in values.items():
        node = _node(root, tuple(map(str, steps_of(path))))
        if node is not None and (isinstance(node, yaml.ScalarNode) or getattr(node, "flow_style", False)):
            spans.append((node.start_mark.index, node.end_mark.index, json.dumps(value)))
    for start, end, new in sorted(spans, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _node(node: Any, steps: tuple[str, ...]) -> Any:
    """The YAML node at a path; keys such as ``reduce.over`` count for two steps."""
    if not steps:
        return node
    if not isinstance(node, yaml.MappingNode):
        return None
    for key, value in node.value:
        parts = tuple(map(str, steps_of(str(key.value)))) if "." in str(key.value) else (str(key.value),)
        for known in (parts, (str(key.value),)):
            if steps[: len(known)] == known and (found := _node(value, steps[len(known):])) is not None:
                return found
    return None


def _with_variant(text: str, bench: str, values: Mapping[str, Any], reason: str) -> str:
    text = text if text.endswith("\n") else text + "\n"
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    known = _node(root, ("variants",))
    if not isinstance(known, yaml.SequenceNode):
        return text + "variants:\n" + variant_text(bench, values, reason)
    end = known.end_mark.index
    if known.flow_style:
        sets = ", ".join(f"{path}: {json.dumps(value)}" for path, value in values.items())
        entry = f"{{when: {{bench: {json.dumps(bench)}}}, set: {{{sets}}}, reason: {json.dumps(reason)}}}"
        return text[: end - 1] + (", " if known.value else "") + entry + text[end - 1 :]
    indent = " " * known.start_mark.column
    return text[:end] + variant_text(bench, values, reason, indent) + text[end:]


def _with_comment(text: str, notes: list[str]) -> str:
    """Comment lines after those that the file begins with."""
    lines = text.splitlines(keepends=True)
    first = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "".join([*lines[:first], *(f"# {note}\n" for note in notes), *lines[first:]])
