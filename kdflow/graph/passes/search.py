"""Check what a spec offers to the search: every path must lead to something that exists on this bench."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, get_args

from kdflow.errors import choices
from kdflow.operation import OPS, Op
from kdflow.ports import DETECTORS
from kdflow.spec.bench import DataSpec, Evaluation, Recipe, TeacherSpec
from kdflow.spec.faults import validate
from kdflow.spec.load import Document, Steps
from kdflow.spec.method import Method, ModuleEntry, NodeEntry, Preparation, SearchRange, TermEntry
from kdflow.spec.paths import BENCH_PATHS, steps_of

Entry = TermEntry | NodeEntry | ModuleEntry | Preparation


def check_search(method: Method, document: Document) -> None:
    """Report search paths whose last key is no key of the term or node; entries that a variant dropped are passed over."""
    groups: dict[str, Mapping[str, Entry]] = {
        "terms": method.terms,
        "nodes": method.nodes,
        "modules": method.modules,
        "prepare": method.prepare,
    }
    for path in method.search:
        group, *rest = map(str, steps_of(path))
        entry = groups.get(group, {}).get(rest[0]) if len(rest) > 1 else None
        known = _keys(entry) if entry is not None else None
        if known and rest[1] not in known:
            document.report(("search", path), f'{group}.{rest[0]} has no key "{rest[1]}".{choices(rest[1], known)}')
        elif entry is not None and known and len(rest) == 2:
            _check_values(entry, rest[1], method.search[path], document, path)
        elif rest and len(rest) == 1 and group in groups:
            for number, choice in enumerate(method.search[path].choices):
                _check_entry(choice, group, document, ("search", path, "choices", number))


def check_bench_paths(method: Method, document: Document) -> None:
    """Report search paths that lead into no bench, whatever its detectors; which values fit is judged beside a bench."""
    for path in method.search:
        if path.startswith(BENCH_PATHS):
            group, *rest = path.split(".")
            rest = rest[1:] if group == "teachers" else rest
            if rest and (problem := _bench_key(group, rest)):
                document.report(("search", path), problem)


def _bench_key(group: str, rest: list[str]) -> str:
    model: Any = {"recipe": Recipe, "data": DataSpec, "evaluation": Evaluation}.get(group)
    if model is None:
        options = {key for name in DETECTORS for key in DETECTORS.get(name).options.model_fields}
        known: Collection[str] = options | set(TeacherSpec.model_fields)
        return "" if rest[0] in known else f'no detector has an option "{rest[0]}".{choices(rest[0], known)}'
    for step in rest:
        fields = getattr(model, "model_fields", {})
        if step not in fields:
            return f'there is no "{step}".{choices(step, fields)}'
        model = next((part for part in _parts(fields[step].annotation) if hasattr(part, "model_fields")), None)
    return ""


def _parts(annotation: Any) -> tuple[Any, ...]:
    """A type, or those of a union."""
    return get_args(annotation) or (annotation,)


def _check_values(entry: Entry, key: str, wanted: SearchRange, document: Document, path: str) -> None:
    """Both ends of a range, or all choices, are taken by the op."""
    op = _op_of(entry)
    if key in ("op", "loss"):
        for name in wanted.choices:
            _check_op({key: name, **entry.arguments}, document, ("search", path))
    if op is None or key not in op.options.model_fields:
        return
    given = {name: value for name, value in entry.arguments.items() if name in op.options.model_fields}
    for value in wanted.choices or (wanted.low, wanted.high):
        trial = Document(document.file)
        before = validate(op.options, given, Document(document.file))
        if before is not None and validate(op.options, {**given, key: _whole(value)}, trial) is None:
            document.report(("search", path), f"{value} is no value of {op.name}: {trial.faults[0].problem}")


def _check_entry(choice: Any, group: str, document: Document, place: Steps) -> None:
    """A choice of a whole entry is one of its group."""
    trial = Document(document.file)
    if not isinstance(choice, Mapping) or validate(_ENTRIES[group], dict(choice), trial) is None:
        problem = trial.faults[0].problem if trial.faults else f"it is an entry of {group}, such as {{op: ...}}"
        document.report(place, f"{choice} is no value of {place[1]}: {problem}")
        return
    _check_op(choice, document, place)


_ENTRIES: Mapping[str, type[Entry]] = {"terms": TermEntry, "nodes": NodeEntry, "modules": ModuleEntry, "prepare": Preparation}
_OWN = {key for model in _ENTRIES.values() for key in model.model_fields} | {"copy", "like"}


def _check_op(entry: Mapping[str, Any], document: Document, place: Steps) -> None:
    """The operation that an entry names exists, and has the entry's other keys."""
    name = entry.get("op", entry.get("loss"))
    if name is None:
        return
    if name not in OPS:
        document.report(place, f'no op "{name}".{choices(str(name), OPS.names())}')
        return
    op = OPS.get(name)
    known = {*op.inputs, *op.options.model_fields}
    for key in entry:
        if key not in _OWN and key not in known:
            document.report(place, f'{name} has no key "{key}", which stands beside it.{choices(key, known)}')


def _whole(value: Any) -> Any:
    """Ranges of whole numbers are read as numbers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _op_of(entry: Entry) -> Op | None:
    name = entry.loss if isinstance(entry, TermEntry) else entry.op
    return OPS.get(name) if name is not None and name in OPS else None


def _keys(entry: Entry) -> set[str]:
    """Keys that may be searched in an entry; empty where the op is not known or a stage is called."""
    op = _op_of(entry)
    own = _TERM_KEYS if isinstance(entry, TermEntry) else {"op", "share"}
    if op is None:
        return own if (entry.loss if isinstance(entry, TermEntry) else entry.op) is None else set()
    return own | set(op.options.model_fields) | set(op.inputs)


_TERM_KEYS = {"loss", "value", "weight", "control", "sign", "schedule", "reduce", "factors", "rows"}
