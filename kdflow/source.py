"""The Python that builds a model without kdflow, as data: parts are added by whoever changes the model, and written once."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Source:
    """A module whose ``build()`` makes a model from its library alone.

    Names and settings that come from users are values here, and are written with ``repr``: no text of theirs becomes code.

    Attributes:
        title: First line of the module, a sentence.
        library: Library whose way of taking pictures the model has: ``torchvision`` or ``transformers``.
        imports: Import lines.
        definitions: Functions and classes that building needs, each a block of code.
        lines: Statements that end with a definition of ``model``.
        constants: Values by name, for definitions and lines to read.
        detect: Keywords of the library's ``detect`` in :mod:`kdflow.student`.
    """

    title: str
    library: str
    imports: tuple[str, ...] = ()
    definitions: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    constants: Mapping[str, Any] = field(default_factory=dict)
    detect: Mapping[str, Any] = field(default_factory=dict)

    def then(
        self,
        *lines: str,
        imports: Sequence[str] = (),
        definitions: Sequence[str] = (),
        constants: Mapping[str, Any] | None = None,
    ) -> Source:
        """The same source with more statements, imports, definitions and constants behind its own."""
        return replace(
            self,
            imports=(*self.imports, *imports),
            definitions=(*self.definitions, *definitions),
            lines=(*self.lines, *lines),
            constants={**self.constants, **(constants or {})},
        )

    def carrying(self, *modules: ModuleType) -> Source:
        """The same source with the text of plain modules, which may import each other."""
        source = self
        for module in modules:
            imports, definitions = parts_of(module)
            source = source.then(imports=imports, definitions=definitions)
        return source

    def text(self) -> str:
        """The module."""
        blocks = [
            f'"""{self.title}"""',
            "\n".join(["from __future__ import annotations", "", *sorted_imports(self.imports)]).rstrip(),
            *(["\n".join(f"{name} = {value!r}" for name, value in self.constants.items())] if self.constants else []),
        ]
        build = "\n".join(["def build():", *(f"    {line}" for line in (*self.lines, "return model"))])
        code = [*dict.fromkeys(block.strip("\n") for block in self.definitions), build]
        return "\n\n".join(blocks) + "\n\n\n" + "\n\n\n".join(code) + "\n"


def sorted_imports(lines: Sequence[str]) -> list[str]:
    """Import lines once each, ``import x`` before ``from x import y``."""
    return sorted(set(lines), key=lambda line: (not line.startswith("import "), line))


def parts_of(module: ModuleType) -> tuple[list[str], list[str]]:
    """Import lines of a module, without those of kdflow, and everything below them, each statement a block."""
    text = inspect.getsource(module)
    imports: list[str] = []
    blocks: list[str] = []
    for node in ast.parse(text).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            imports.append(ast.unparse(node))
        elif not isinstance(node, ast.Expr):
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            blocks.append("\n".join(text.splitlines()[first - 1 : node.end_lineno]))
    foreign = [line for line in imports if "kdflow" not in line and "__future__" not in line]
    return foreign, blocks


def call_lines(opening: str, settings: Mapping[str, Any], write: Callable[[Any], str] = repr) -> list[str]:
    """Python of a call over several lines: its opening (with the first arguments), then keywords."""
    comma = "" if opening.endswith("(") else ","
    return [f"{opening.rstrip(',')}{comma}", *(f"    {key}={write(value)}," for key, value in settings.items()), ")"]
