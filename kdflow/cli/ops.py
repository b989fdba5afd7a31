"""``kdflow ops``: the operations that nodes and terms are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kdflow.cli.console import columns, note, plain, say, say_json
from kdflow.cli.options import JsonOption, PluginOption
from kdflow.errors import UsageError, choices

if TYPE_CHECKING:
    from kdflow.cli.describe import OpFacts

Pattern = Annotated[str, typer.Argument(metavar="[PATTERN]", help="A name, or a pattern such as 'loss.*'.")]


def ops(pattern: Pattern = "*", plugin: PluginOption = None, json: JsonOption = False) -> None:
    """List operations, or show one.

    One name shows its inputs with their kinds, its options with defaults, and what it gives.
    """
    from kdflow.cli.describe import describe_op
    from kdflow.operation import OPS
    from kdflow.plugins import load_plugin

    for path in plugin or ():
        load_plugin(path)
    names = OPS.names(pattern)
    if not names:
        raise UsageError(f'no op "{pattern}".{choices(pattern, OPS)}')
    facts = [describe_op(OPS.get(name)) for name in names]
    if json:
        say_json([fact.as_json() for fact in facts])
    elif len(facts) == 1:
        say(plain(page(facts[0])))
    else:
        say(plain(columns([(fact.name, fact.doc) for fact in facts])))
        note(f'{len(facts)} ops; "kdflow ops NAME" shows one')


def page(op: OpFacts) -> str:
    """One operation in full."""
    lines = [op.signature, "", f"  {op.doc}"]
    if op.details:
        lines += ["", *(f"  {line}".rstrip() for line in op.details.splitlines())]
    if op.flags:
        lines += ["", f"  {', '.join(op.flags)}"]
    inputs = [(i.name, i.kind + (" (several)" if i.many else ""), _default(i.required, i.default), i.doc) for i in op.inputs]
    lines += ["", "inputs", columns(inputs, indent="  ")]
    if op.options:
        from kdflow.cli.describe import literal

        options = [(o.name, o.type, "needed" if o.required else f"= {literal(o.default)}", o.doc) for o in op.options]
        lines += ["", "options", columns(options, indent="  ")]
    outputs = [(name or "value", kind) for name, kind in op.gives.items()]
    return "\n".join([*lines, "", "gives", columns(outputs, indent="  ")])


def _default(required: bool, default: str | None) -> str:
    return f"= {default}" if default else "needed" if required else "optional"
