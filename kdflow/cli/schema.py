"""``kdflow schema``: completion and checks while typing, in every editor that knows JSON Schema."""

from __future__ import annotations

import json

from kdflow.cli.console import note, say
from kdflow.cli.options import OutputFile, PluginOption
from kdflow.files import write_text


def schema(output: OutputFile = None, plugin: PluginOption = None) -> None:
    """Print a JSON Schema for editors.

    It completes and checks methods and benches while typing.
    In VS Code with its YAML extension, write "# yaml-language-server: $schema=kdflow.schema.json" into the first line of a spec.
    """
    from kdflow.cli.editor import editor_schema
    from kdflow.plugins import load_plugin

    for path in plugin or ():
        load_plugin(path)
    text = json.dumps(editor_schema(), indent=1, ensure_ascii=False) + "\n"
    if output is None:
        say(text.rstrip("\n"))
    else:
        write_text(output, text)
        note(f"{output} written")
