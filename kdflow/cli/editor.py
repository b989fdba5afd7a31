"""The JSON Schema of method and bench files, built from the models, the ops' signatures and the detectors' builders.

Whatever a document may contain is said elsewhere; here it is only put into the words of JSON Schema: which keys an entry has
depends on its ``op``, ``loss`` or ``detector``.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from kdflow.cli.describe import OpFacts, describe_op
from kdflow.data.formats import DATASETS
from kdflow.graph.per_level import takes_one_number
from kdflow.graph.sides import SIDES
from kdflow.operation import OPS, Op
from kdflow.ports import DETECTORS
from kdflow.spec.balance import Control
from kdflow.spec.bench import Bench, DataSpec, DetectorSpec, TeacherSpec
from kdflow.spec.method import SHORTHANDS, Method, ModuleEntry, NodeEntry, Preparation, TermEntry
from kdflow.spec.schedule import SCHEDULES, option_model

Schema = dict[str, Any]

REFERENCE: Schema = {
    "type": "string",
    "description": "student.neck, teacher.roi.logits, a node, node.output, targets.boxes; [2] or [0:4] takes entries of a stack",
}
OFFERED: Schema = {
    "anyOf": [{"$ref": "#/$defs/reference"}, {"type": "array", "items": {"$ref": "#/$defs/reference"}, "minItems": 1}],
    "description": "a reference, or several of which the first that the detectors offer is taken",
}

_OPERAND = r"[-+(\s]*(?:[A-Za-z_]\w*|\d+(?:\.\d*)?|\.\d+)[)\s]*"
ARITHMETIC: Schema = {
    "type": "string",
    "pattern": rf"^{_OPERAND}(?:[-+*/]{_OPERAND})*$",
    "description": "arithmetic of numbers and constants, such as 1 - mu",
}


def editor_schema() -> Schema:
    """JSON Schema (draft 2020-12) of method files and bench files; the key ``method`` tells them apart."""
    definitions: Schema = {"reference": REFERENCE, "offered": OFFERED, "arithmetic": ARITHMETIC}
    method, bench = _method(definitions), _bench(definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "kdflow",
        "description": "A distillation method (method:) or a bench (bench: without method:)",
        "type": "object",
        "if": {"required": ["method"]},
        "then": {"$ref": "#/$defs/method"},
        "else": {"$ref": "#/$defs/bench"},
        "$defs": {**definitions, "method": method, "bench": bench},
    }


def _model(model: type[BaseModel], definitions: Schema, replace: Mapping[str, Schema] | None = None) -> Schema:
    """A model's own schema; what it refers to goes into ``definitions``, and ``replace`` overrules single properties."""
    schema = model.model_json_schema(ref_template="#/$defs/{model}")
    for name, definition in schema.pop("$defs", {}).items():
        definitions.setdefault(name, definition)
    schema["properties"] = {**schema["properties"], **(replace or {})}
    return schema


def _method(definitions: Schema) -> Schema:
    ops = {name: OPS.get(name) for name in OPS}
    losses = {name: op for name, op in ops.items() if name.startswith("loss.")}
    prepared = {name: op for name, op in ops.items() if op.observes}
    definitions["module"] = _module(ops, definitions)
    definitions["node"] = _node(ops, definitions)
    definitions["prepare"] = _chosen_by("op", prepared, _own(Preparation, definitions))
    definitions["term"] = _term(losses, definitions)
    definitions["schedule"] = _schedule(definitions)
    entries = {
        "modules": _mapping("module"),
        "nodes": _mapping("node"),
        "prepare": _mapping("prepare"),
        "terms": _mapping("term"),
        "schedule": {"$ref": "#/$defs/schedule"},
    }
    schema = _model(Method, definitions, entries)
    loose = {"type": "object", "additionalProperties": {"type": ["object", "null"]}}
    schema["properties"] |= dict.fromkeys(("modules", "nodes", "prepare", "terms"), loose)
    schema["if"] = {"not": {"required": ["wraps"]}}
    schema["then"] = {"properties": entries}
    return schema


def _mapping(definition: str) -> Schema:
    return {"type": "object", "additionalProperties": {"$ref": f"#/$defs/{definition}"}}


def _own(model: type[BaseModel], definitions: Schema) -> Schema:
    """Properties of a model itself, without those that its op adds."""
    return dict(_model(model, definitions)["properties"])


def _module(ops: Mapping[str, Op], definitions: Schema) -> Schema:
    """The layers of an op, a copy of a call, or a part of another detector."""
    own = _own(ModuleEntry, definitions)
    copied = {key: value for key, value in own.items() if key != "op"}
    layers = {key: value for key, value in own.items() if key == "op"}
    return {
        "if": {"anyOf": [{"required": ["copy"]}, {"required": ["build"]}]},
        "then": {"type": "object", "properties": copied, "additionalProperties": False},
        "else": _chosen_by("op", ops, layers, options_only=True),
    }


def _node(ops: Mapping[str, Op], definitions: Schema) -> Schema:
    own = _own(NodeEntry, definitions)
    free = {"type": "object", "additionalProperties": True}
    return {
        "type": "object",
        "if": {"required": ["op"]},
        "then": _chosen_by("op", ops, {k: v for k, v in own.items() if k not in ("call", "module")}),
        "else": {
            **free,
            "properties": {k: v for k, v in own.items() if k != "op"},
            "oneOf": [{"required": ["call"]}, {"required": ["module"]}],
        },
    }


def _term(losses: Mapping[str, Op], definitions: Schema) -> Schema:
    """A term with a loss, with a value, a copy of another (``like``), or a change to one of the detector's own losses."""
    own = _with_arithmetic(_own(TermEntry, definitions))
    own["reduce"] = {"anyOf": [{"enum": list(SHORTHANDS)}, _reduce(definitions)]}
    own["rows"] = OFFERED
    own["factors"] = {"type": "array", "items": {"$ref": "#/$defs/offered"}}
    own["schedule"] = {"$ref": "#/$defs/schedule"}
    own["control"] = {"anyOf": [_control(definitions), {"type": "null"}]}
    plain = {k: v for k, v in own.items() if k != "loss"}
    dotted: Schema = {"^(reduce|schedule)\\.": {}}
    with_value = {"type": "object", "properties": plain, "patternProperties": dotted, "additionalProperties": False}
    copy = {
        "type": "object",
        "properties": {**own, "like": {"type": "string", "description": "a term to copy; keys beside go on top"}},
        "patternProperties": dotted,
        "additionalProperties": True,
    }
    chosen = _chosen_by("loss", losses, own)
    chosen["patternProperties"] = dotted
    return {
        "if": {"required": ["like"]},
        "then": copy,
        "else": {"if": {"required": ["loss"]}, "then": chosen, "else": with_value},
    }


def _reduce(definitions: Schema) -> Schema:
    reduce: Schema = dict(definitions["Reduce"])
    axes = {"type": "array", "items": {"type": "string"}}
    reduce["properties"] = {
        **reduce["properties"],
        "layers": reduce["properties"]["levels"],
        "over": {"type": "array", "items": {"anyOf": [{"type": "number"}, {"type": "string"}]}},
        "root": axes,
    }
    return reduce


def _control(definitions: Schema) -> Schema:
    control = _model(Control, definitions)
    return {**control, "properties": _with_arithmetic(control["properties"])}


def _schedule(definitions: Schema) -> Schema:
    properties = {}
    for name, function in SCHEDULES.items():
        model = option_model(name)
        mapping = _model(model, definitions)
        mapping["properties"] = _with_arithmetic(mapping["properties"])
        first = next(iter(mapping["properties"].values()))
        properties[name] = {"anyOf": [mapping, first], "description": (inspect.getdoc(function) or "").splitlines()[0]}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _chosen_by(key: str, ops: Mapping[str, Op], own: Schema, options_only: bool = False) -> Schema:
    """An entry whose keys depend on ``key``: a list of names to choose from, and one branch per name."""
    facts = [describe_op(op) for op in ops.values()]
    unnamed = {k: v for k, v in own.items() if k != key}
    return {
        "type": "object",
        "required": [key],
        "properties": {key: {"enum": sorted(ops)}},
        "allOf": [
            {
                "if": {"properties": {key: {"const": fact.name}}, "required": [key]},
                "then": _keys_of(fact, ops[fact.name], {**unnamed, key: True}, options_only),
            }
            for fact in facts
        ],
    }


def _keys_of(fact: OpFacts, op: Op, own: Schema, options_only: bool) -> Schema:
    """Inputs and options of one op beside the entry's own keys."""
    properties: Schema = (
        {}
        if options_only
        else {
            i.name: {
                **_of_sides(_several() if i.many else {"$ref": "#/$defs/offered"}),
                "description": f"{i.kind}. {i.doc}".rstrip(),
                **({"default": i.default} if i.default else {}),
            }
            for i in fact.inputs
        }
    )
    required = [] if options_only else [i.name for i in fact.inputs if i.required]
    options = _inlined(op.options.model_json_schema())
    spoken = {o.name: o.doc for o in fact.options}
    for name, schema in _with_arithmetic(options.get("properties", {})).items():
        schema = _per_level(schema) if takes_one_number(op.options, name) else schema
        of_sides = schema if options_only else _of_sides(schema)
        properties[name] = {**of_sides, **({"description": spoken[name]} if spoken.get(name) else {})}
    needed = [] if options_only else [*required, *options.get("required", [])]
    return {
        "description": fact.doc,
        "properties": {**own, **properties},
        "required": needed,
        "patternProperties": {"^(reduce|schedule)\\.": {}},
        "additionalProperties": False,
    }


def _of_sides(schema: Schema) -> Schema:
    """An input or option: one value, or one for each side."""
    value, said = _apart(schema)
    sides = dict.fromkeys(SIDES, value)
    pair = {"type": "object", "properties": sides, "required": list(SIDES), "additionalProperties": False}
    return {"anyOf": [value, pair], **said}


def _per_level(schema: Schema) -> Schema:
    """A number, or one for each level."""
    value, said = _apart(schema)
    return {"anyOf": [value, {"type": "array", "items": value, "minItems": 1}], **said}


def _with_arithmetic(properties: Mapping[str, Schema]) -> Schema:
    """Properties in which numbers, and lists of numbers, may be written as arithmetic."""
    return {name: _or_arithmetic(schema) for name, schema in properties.items()}


def _or_arithmetic(schema: Schema) -> Schema:
    found = dict(schema)
    for several in found.keys() & {"anyOf", "oneOf"}:
        found[several] = [_or_arithmetic(part) for part in found[several]]
    if isinstance(found.get("items"), dict):
        found["items"] = _or_arithmetic(found["items"])
    if found.get("type") not in ("number", "integer"):
        return found
    number, said = _apart(found)
    return {"anyOf": [number, {"$ref": "#/$defs/arithmetic"}], **said}


def _apart(schema: Schema) -> tuple[Schema, Schema]:
    """What a schema demands, and what it says to people."""
    said: Schema = {key: schema[key] for key in ("description", "default", "title") if key in schema}
    return {key: value for key, value in schema.items() if key not in said}, said


def _several() -> Schema:
    return {"anyOf": [{"$ref": "#/$defs/reference"}, {"type": "array", "items": {"$ref": "#/$defs/offered"}}]}


def _bench(definitions: Schema) -> Schema:
    definitions["data"] = _data(definitions)
    definitions["student"] = _detector(DetectorSpec, definitions)
    definitions["teacher"] = _detector(TeacherSpec, definitions)
    parts = {
        "data": {"$ref": "#/$defs/data"},
        "student": {"$ref": "#/$defs/student"},
        "teacher": {"$ref": "#/$defs/teacher"},
        "teachers": _mapping("teacher"),
    }
    return _model(Bench, definitions, parts)


def _data(definitions: Schema) -> Schema:
    own = _own(DataSpec, definitions)
    branches = [(name, _inlined(DATASETS.get(name).options.model_json_schema())) for name in DATASETS]
    return _branches("format", own, branches)


def _detector(model: type[BaseModel], definitions: Schema) -> Schema:
    own = _own(model, definitions)
    branches = []
    for name in DETECTORS:
        branches.append((name, _inlined(DETECTORS.get(name).options.model_json_schema())))
    return _branches("detector", own, branches)


def _branches(key: str, own: Schema, branches: Iterable[tuple[str, Schema]]) -> Schema:
    """Keys depend on ``key``; the model's own keys are allowed everywhere."""
    found = list(branches)
    return {
        "type": "object",
        "required": [key],
        "properties": {**own, key: {"enum": [name for name, _ in found]}},
        "allOf": [
            {
                "if": {"properties": {key: {"const": name}}},
                "then": {
                    "properties": {**dict.fromkeys(own, True), **options.get("properties", {})},
                    "required": options.get("required", []),
                    "additionalProperties": False,
                },
            }
            for name, options in found
        ],
    }


def _inlined(schema: Schema) -> Schema:
    """A schema without references: its definitions are put where they are used."""
    definitions = schema.pop("$defs", {})

    def expand(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return expand(
                    {**definitions[part["$ref"].rpartition("/")[2]], **{k: v for k, v in part.items() if k != "$ref"}}
                )
            return {key: expand(value) for key, value in part.items()}
        return [expand(item) for item in part] if isinstance(part, list) else part

    return dict(expand(schema))
