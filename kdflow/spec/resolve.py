"""From the text of a method to the method of one run: ``wraps``, variants, ``like``, overrides and ``rewrite``, in that order."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdflow.errors import SpecError, UsageError
from kdflow.spec.bench import Bench
from kdflow.spec.constants import fill_constants
from kdflow.spec.faults import validate
from kdflow.spec.leads import check_variant, faults_of
from kdflow.spec.load import Document, Steps, parse, part_of, read
from kdflow.spec.method import PARENT, Method
from kdflow.spec.paths import BENCH_PATHS, FIXED, exists, override, set_path, steps_of
from kdflow.spec.places import anchor
from kdflow.spec.rewrite import apply_rewrites
from kdflow.spec.variants import Context, apply_variants, expand_dotted, expand_likes, holds
from kdflow.spec.wraps import Finder, wrapped


@dataclass
class MethodSpec:
    """A method file as written, before variants are chosen; :meth:`resolve` gives the method of one run."""

    document: Document

    @property
    def name(self) -> str:
        """The method's slug as written."""
        return str(self.document.data.get("method", Path(self.document.file).stem))

    def resolve(self, context: Context | None = None, overrides: Mapping[str, Any] | None = None) -> Method:
        """The method with the variants that fit ``context`` and the overrides applied.

        Args:
            context: ``bench`` and ``<owner>.family`` / ``<owner>.detector`` of the run; None applies no variant.
            overrides: Dotted path -> value, as from ``--set``.

        Raises:
            SpecError: With every fault of the document.
            UsageError: An override of something that is read before anything can be set.
        """
        if misplaced := next((path for path in overrides or {} if path.split(".")[0] in FIXED), None):
            raise UsageError(f'"{misplaced}" cannot be set from outside: {FIXED[misplaced.split(".")[0]]}')
        own = {steps_of(path): value for path, value in (overrides or {}).items() if not path.startswith(BENCH_PATHS)}
        resolved = self.applied(self.chosen(context), own, must_fit=context is None)
        method = validate(Method, resolved.data, resolved)
        resolved.check()
        if method is None:
            raise AssertionError("validation failed without a fault")
        return method

    def chosen(self, context: Context | None) -> list[int]:
        """Indices of the variants whose conditions hold in ``context``; None stands for no variant."""
        if context is None:
            return []
        return [i for i, v in enumerate(self.variants) if isinstance(v, dict) and holds(v.get("when") or {}, context)]

    @property
    def bench(self) -> str | None:
        """The method's own bench, which neither variants nor overrides can change; None where it names none."""
        bench = self.document.data.get("bench")
        return bench if isinstance(bench, str) else None

    @property
    def variants(self) -> list[Any]:
        """The variants as written."""
        variants = self.document.data.get("variants")
        return variants if isinstance(variants, list) else []

    def check_variant(self, index: int, into: Document) -> None:
        """Record conditions of a variant that are none, and paths that lead nowhere, into a document."""
        variant = self.variants[index]
        if isinstance(variant, dict):
            check_variant(self.document, into, index, variant)

    def applied(
        self, variants: Collection[int], own: Mapping[Steps, Any] | None = None, *, must_fit: bool = False
    ) -> Document:
        """The document with these variants, ``like``, ``rewrite`` and constants applied, and what went wrong on the way.

        Args:
            variants: Indices of the variants that apply.
            own: Path -> value set from outside.
            must_fit: A rule of ``rewrite`` that fits no term is a fault.
        """
        document, changed = self.document, copy.deepcopy(self.document.data)
        resolved = Document(document.file, changed, dict(document.marks), list(document.faults))
        expand_dotted(resolved)
        apply_variants(resolved, variants)
        expand_likes(resolved)
        if "rewrite" in changed:  # what is set on a term counts for what a rule makes of it
            override(resolved, {steps: value for steps, value in (own or {}).items() if exists(changed, steps[:2])})
            document.marks.update(apply_rewrites(resolved, expand_likes, must_fit=must_fit))
        override(resolved, own or {})
        fill_constants(resolved)
        return resolved


def load_method(path: str | Path, find: Finder | None = None) -> MethodSpec:
    """Read a method file; raises SpecError with all faults of its shape.

    Args:
        path: File to read.
        find: Finds the file of another method by slug, for ``wraps``.
    """
    return _checked(read_spec(path, find))


def read_spec(path: str | Path, find: Finder | None = None) -> MethodSpec:
    """Read a method file with what it wraps; :func:`faults_of` then says what is wrong with it.

    Raises:
        SpecError: It is no YAML, or what it wraps is faulty.
    """
    return MethodSpec(wrapped(part_of(read(path), "method"), find, _document))


def parse_method(text: str, file: str = "<text>", find: Finder | None = None) -> MethodSpec:
    """The same for text, for notebooks and tests."""
    return _checked(MethodSpec(wrapped(parse(text, file), find, _document)))


def _document(file: Path, find: Finder) -> Document:
    return load_method(file, find).document


def _checked(spec: MethodSpec) -> MethodSpec:
    if faults := faults_of(spec):
        raise SpecError(faults)
    return spec


def load_bench(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Bench:
    """Read a bench file and apply overrides; raises SpecError with all its faults."""
    return bench_of(part_of(read(path), "bench"), overrides)


def bench_of(document: Document, overrides: Mapping[str, Any] | None = None) -> Bench:
    """The bench in a parsed document."""
    resolved = Document(document.file, copy.deepcopy(document.data), dict(document.marks))
    anchor(resolved.data, document.file)
    for path, value in (overrides or {}).items():  # paths that are set from outside are relative to where that is done
        if path.startswith(BENCH_PATHS):
            set_path(resolved, tuple(path.split(".")), value, create=True)
    bench = validate(Bench, resolved.data, resolved)
    _check_owners(resolved)
    resolved.check()
    if bench is None:
        raise AssertionError("validation failed without a fault")
    return bench


_OWNER = re.compile(r"[A-Za-z_]\w*")
_RESERVED = ("student", "images", "image_sizes", "targets", "ops", "det", "kd", PARENT)
"""First words of references, parameters and terms that mean something else."""


def _check_owners(document: Document) -> None:
    """Teachers are read by their names, so these are words, and free."""
    teachers = document.data.get("teachers")
    single = document.data.get("teacher") is not None
    for name in teachers if isinstance(teachers, dict) else ():
        place = ("teachers", name)
        if not _OWNER.fullmatch(name):
            document.report(place, f'"{name}" cannot be read as NAME.port; use letters, digits and _, and begin with a letter')
        elif name in _RESERVED:
            document.report(place, f'"{name}" means something else in every method; give the teacher another name')
        elif name == "teacher" and single:
            document.report(place, 'there is a teacher: already; give this one another name, or leave teacher: out')
