"""``kdflow kinds`` and ``kdflow schedules``: the words of a method file that no op and no detector explains."""

from __future__ import annotations

import inspect

from kdflow.cli.console import columns, note, plain, say, say_json
from kdflow.cli.options import JsonOption


def kinds(json: JsonOption = False) -> None:
    """List the kinds of value that nodes give and take.

    A kind names the axes of its tensors: masks, weights and divisors meet a loss by name.
    """
    from kdflow.kinds import AXES, KINDS

    if json:
        found = KINDS.values()
        say_json([{"kind": k.name, "axes": list(k.axes or ()), "list_over": k.stack, "opaque": k.opaque} for k in found])
        return
    rows = [(k.name, "x".join(k.axes) if k.axes else "", _form(k.opaque, k.axes is None, k.stack)) for k in KINDS.values()]
    say(plain(columns(rows, head=("kind", "axes", ""))))
    say("")
    say(plain(columns(list(AXES.items()), head=("axis", ""))))
    note('"kdflow ops NAME" shows the kinds that an op takes and gives')


def _form(opaque: bool, any_axes: bool, stack: str | None) -> str:
    if opaque:
        return "no tensor: goes from what gives it to what takes it"
    if stack is not None:
        return f"a list over {stack}"
    return "any tensor" if any_axes else ""


def schedules(json: JsonOption = False) -> None:
    """List the schedules: factors over time on a term, or on all terms of a method.

    Lengths up to 1 are fractions of the run, larger ones are steps; several schedules multiply.
    """
    from kdflow.cli.describe import describe_options, literal
    from kdflow.spec.schedule import SCHEDULES, option_model

    rows = []
    for name, function in SCHEDULES.items():
        options = describe_options(option_model(name))
        text = ", ".join(o.name if o.required else f"{o.name} = {literal(o.default)}" for o in options)
        rows.append((name, text, (inspect.getdoc(function) or "").splitlines()[0]))
    if json:
        say_json([{"schedule": name, "options": options, "text": text} for name, options, text in rows])
    else:
        say(plain(columns(rows, head=("schedule", "options", ""))))
