"""From the text of a method to the method of one run: ``wraps``, variants, ``like``, overrides and ``rewrite``, in that order."""

from __future__ import annotations

import copy
import fnmatch
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kdflow.errors import Fault, SpecError, UsageError, choices
from kdflow.spec.bench import Bench
from kdflow.spec.constants import fill_constants, report_unused
from kdflow.spec.faults import validate
from kdflow.spec.load import Document, Mark, Steps, dotted, parse, part_of, read
from kdflow.spec.method import Method
from kdflow.spec.places import anchor
from kdflow.spec.rewrite import apply_rewrites
from kdflow.spec.salvage import GROUPS, salvage

_WHEN = re.compile(r"^(bench|[a-z_]\w*\.(family|detector))$")
BENCH_PATHS = ("data.", "student.", "teacher", "recipe.", "evaluation.")
"""Dotted paths that start so belong to the bench, all others to the method."""
FIXED = {
    "kdflow": "it is the version of the language that the file is written in",
    "method": "it is the name of the file's method",
    "bench": "name another bench with --bench",
    "plugins": "plugins are imported before anything is set; name them in the file",
    "wraps": "the wrapped method is read before anything is set; write a file that wraps it",
    "rewrite": "rules are read before anything is set; write them into the file",
    "variants": "variants are chosen by the bench; set what they change",
}
"""Keys of a method that neither an override nor a variant can change, and what to do instead."""
Context = Mapping[str, str]
Finder = Callable[[str], Path]


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
    def variants(self) -> list[Any]:
        """The variants as written."""
        variants = self.document.data.get("variants")
        return variants if isinstance(variants, list) else []

    def check_variant(self, index: int, into: Document) -> None:
        """Record conditions of a variant that are none, and paths that lead nowhere, into a document."""
        variant = self.variants[index]
        if isinstance(variant, dict):
            _check_variant(self.document, into, index, variant)

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
        _expand_dotted(resolved)
        _apply_variants(resolved, variants)
        _expand_likes(resolved)
        if "rewrite" in changed:  # what is set on a term counts for what a rule makes of it
            _override(resolved, {steps: value for steps, value in (own or {}).items() if _exists(changed, steps[:2])})
            document.marks.update(apply_rewrites(resolved, _expand_likes, must_fit=must_fit))
        _override(resolved, own or {})
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
    return _wrapped(part_of(read(path), "method"), find)


def parse_method(text: str, file: str = "<text>", find: Finder | None = None) -> MethodSpec:
    """The same for text, for notebooks and tests."""
    return _checked(_wrapped(parse(text, file), find))


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
_RESERVED = ("student", "images", "image_sizes", "targets", "ops", "det", "kd")
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


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """``["terms.a.weight=2"]`` -> ``{"terms.a.weight": 2}``; raises UsageError for anything else."""
    result: dict[str, Any] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        if not equals or not path.strip():
            raise UsageError(f"--set {pair}: write PATH=VALUE, for example terms.neck.weight=2")
        try:
            read_as = parse(f"value: {text}", "--set").data
            if list(read_as) != ["value"]:
                raise ValueError("write one value")
            result[path.strip()] = read_as["value"]
        except (yaml.YAMLError, ValueError) as error:
            raise UsageError(f"--set {pair}: {error}") from None
    return result


def steps_of(path: str) -> Steps:
    """Dotted path -> keys; ``terms.det.loss_x.weight`` keeps ``det.loss_x`` as one key."""
    parts = path.split(".")
    if len(parts) > 2 and parts[:2] == ["terms", "det"]:
        parts[1:3] = [f"det.{parts[2]}"]
    return tuple(parts)


def set_path(document: Document, steps: Steps, value: Any, *, create: bool, mark: Steps | None = None) -> None:
    """Set one value; with ``create=False`` every key but the last must exist, otherwise a fault is recorded."""
    holder: Any = document.data
    for depth, step in enumerate(steps[:-1]):
        if not isinstance(holder, dict) or (step not in holder and not create and depth < 2):
            known = holder if isinstance(holder, dict) else ()
            document.report(mark or steps[:depth], f'nothing is called "{dotted(steps)}".{choices(str(step), known)}')
            return
        holder = holder.setdefault(step, {})
    if not create and steps[0] == "constants" and isinstance(holder, dict) and steps[-1] not in holder:
        document.report((), f'there is no constant "{steps[-1]}".{choices(str(steps[-1]), holder)}')
        return
    if not isinstance(holder, dict):
        document.report(mark or steps, f'nothing can be set at "{dotted(steps)}"')
        return
    holder[steps[-1]] = value
    if mark is not None:
        _move_marks(document, mark, steps)


def _override(document: Document, values: Mapping[Steps, Any]) -> None:
    for steps, value in values.items():
        set_path(document, steps, copy.deepcopy(value), create=False)


def _checked(spec: MethodSpec) -> MethodSpec:
    if faults := faults_of(spec):
        raise SpecError(faults)
    return spec


def faults_of(spec: MethodSpec) -> list[Fault]:
    """The faults of the file as written: its shape, and where its variants and search ranges lead to."""
    found = spec.applied((), must_fit=True)
    method, _ = salvage(found)
    for index in range(len(spec.variants)):
        spec.check_variant(index, found)
    _check_search(spec.document, found, method)
    report_unused(spec.document, found)
    if not found.faults:
        _check_ranges(spec, found)
    return found.faults


def _check_variant(document: Document, found: Document, index: int, variant: dict[str, Any]) -> None:
    """Conditions that are none, and paths that lead nowhere; the faults go into ``found``."""
    when, drop, changes = variant.get("when"), variant.get("drop"), variant.get("set")
    for key in when if isinstance(when, dict) else ():
        if not _WHEN.match(str(key)):
            found.report(
                ("variants", index, "when", key),
                f'unknown condition "{key}"; write bench, OWNER.family or OWNER.detector',
            )
    for position, path in enumerate(drop if isinstance(drop, list) else ()):
        place = ("variants", index, "drop", position)
        steps = steps_of(str(path))
        if not _exists(document.data, steps):
            group = document.data.get(str(steps[0]))
            known = [f"{steps[0]}.{name}" for name in group] if isinstance(group, dict) else sorted(Method.model_fields)
            found.report(place, f'nothing is called "{path}".{choices(str(path), known)}')
        elif steps[0] in FIXED:
            found.report(place, f'"{path}" cannot be dropped: {FIXED[str(steps[0])]}')
    for path in changes if isinstance(changes, dict) else ():
        _check_path(document, found, str(path), ("variants", index, "set", path), "variants")


def _check_search(document: Document, found: Document, method: Method | None) -> None:
    """Paths of ``search`` lead to something that the file, one of its variants or a rule declares."""
    search = document.data.get("search")
    for path in search if isinstance(search, dict) else ():
        steps = steps_of(str(path))
        if len(steps) < 2 or steps[1] not in getattr(method, str(steps[0]), ()):
            _check_path(document, found, str(path), ("search", path), "search")


def _check_ranges(spec: MethodSpec, found: Document) -> None:
    """Both ends of a search range, and all choices, are values that the path takes."""
    search = found.data.get("search")
    for path, entry in search.items() if isinstance(search, dict) else ():
        if path.startswith(BENCH_PATHS) or not _exists(found.data, steps_of(path)[:2]):
            continue
        for value in [entry[end] for end in ("low", "high") if end in entry] + list(entry.get("choices", ())):
            trial = _with_value(spec, found, steps_of(path), value)
            validate(Method, trial.data, trial)
            if trial.faults:
                found.report(("search", path), f"{value} is no value of {path}: {trial.faults[0].problem}")


def _with_value(spec: MethodSpec, found: Document, steps: Steps, value: Any) -> Document:
    """The method with one value changed; a constant changes all places that it stands in."""
    if steps[0] == "constants":
        return spec.applied((), {steps: value})
    trial = Document(found.file, copy.deepcopy(found.data))
    set_path(trial, steps, value, create=True)
    return trial


def _check_path(document: Document, found: Document, path: str, place: Steps, purpose: str) -> None:
    """Report a path whose group does not exist or is fixed, or that goes into an entry that nothing declares."""
    if purpose == "search" and path.startswith(BENCH_PATHS):
        return
    steps, groups = steps_of(path), sorted(Method.model_fields)
    if steps[0] not in groups:
        found.report(place, f'nothing is called "{path}".{choices(str(steps[0]), groups)}')
    elif steps[0] in FIXED:
        found.report(place, f'"{path}" cannot be changed here: {FIXED[str(steps[0])]}')
    elif _leads_into_entry(steps) and steps[1] not in (known := declared(document.data, str(steps[0]))):
        known.discard(str(steps[1]))
        if not str(steps[1]).startswith("det."):
            found.report(place, f'nothing is called "{path}".{choices(str(steps[1]), known)}')


def _leads_into_entry(steps: Steps) -> bool:
    """True for paths whose second key must be declared: a constant, or the entry that the rest goes into."""
    return len(steps) > (1 if steps[0] == "constants" else 2) and steps[0] in (*GROUPS, "constants")


def declared(data: Mapping[str, Any], group: str) -> set[str]:
    """Names of a group's entries, those that variants add included."""
    entries = data.get(group)
    names = set(entries) if isinstance(entries, dict) else set()
    if group == "constants":  # a variant changes them, and adds none
        return names
    for variant in data.get("variants") or ():
        changes = variant.get("set") if isinstance(variant, dict) else None
        for path in changes if isinstance(changes, dict) else ():
            steps = steps_of(str(path))
            if steps[0] == group and len(steps) == 2:
                names.add(str(steps[1]))
    return names


def _exists(data: Any, steps: Steps) -> bool:
    for step in steps:
        if not isinstance(data, dict) or step not in data:
            return False
        data = data[step]
    return True


def _wrapped(document: Document, find: Finder | None) -> MethodSpec:
    """Merge the method named by ``wraps`` below this document, with the rules of the method named by ``rewrite``."""
    if isinstance(rules := document.data.get("rewrite"), str) and find is not None:
        other = _named(document, "rewrite", rules, find)
        document.data["rewrite"] = other.data.get("rewrite", [])
        if plugins := _plugins_of(other, document):
            document.data["plugins"] = plugins
    base_name = document.data.get("wraps")
    if not isinstance(base_name, str):
        return MethodSpec(document)
    if find is None:
        document.report(("wraps",), "another method can only be wrapped where methods can be found by name")
        document.check()
        return MethodSpec(document)
    base = _named(document, "wraps", base_name, find)
    _join_files(base, document)
    _forget(base.data, _removed(base.data, document.data))
    place = document.mark(("wraps",))  # what comes from the other file is found at the line that names it
    marks = {**dict.fromkeys(base.marks, place), **_behind(base.data, document)}
    return MethodSpec(Document(document.file, _merge(base.data, document.data), marks))


def _named(document: Document, key: str, name: str, find: Finder) -> Document:
    """The document of another method, named at ``key``; it may not lead back to itself.

    A slug is found by ``find``, a file beside the one that names it.
    """
    if name.endswith((".yaml", ".yml")):
        name = str(Path(document.file).parent / name)

    def find_others(other: str) -> Path:
        if other == name:
            raise UsageError(f'"{name}" leads back to itself')
        return find(other)

    try:
        return load_method(find(name), find_others).document
    except UsageError as error:
        document.report((key,), str(error))
        raise SpecError(document.faults) from None


def _join_files(base: Document, own: Document) -> None:
    """Let what a wrapped file names (plugins, a bench) be found from the file that wraps it; both files' plugins are needed."""
    if plugins := _plugins_of(base, own):
        own.data["plugins"] = plugins
    bench = base.data.get("bench")
    if isinstance(bench, str) and bench.endswith((".yaml", ".yml")):
        base.data["bench"] = _seen_from(own, base, bench)


def _plugins_of(other: Document, own: Document) -> list[Any]:
    """Plugins of another file, as seen from this one, and behind them its own."""
    theirs, ours = other.data.get("plugins"), own.data.get("plugins")
    moved = [_seen_from(own, other, str(plugin)) for plugin in (theirs if isinstance(theirs, list) else ())]
    return list(dict.fromkeys([*moved, *(map(str, ours) if isinstance(ours, list) else ())]))


def _seen_from(own: Document, other: Document, name: str) -> str:
    here, there = Path(own.file).parent, Path(other.file).parent
    return name if here == there or Path(name).is_absolute() else os.path.relpath(there / name, here)


def _behind(base: Mapping[str, Any], own: Document) -> dict[Steps, Mark]:
    """Marks of a file whose variants and rules follow those of the one that it wraps."""
    first = {key: len(value) for key in ("variants", "rewrite") if isinstance(value := base.get(key), list)}
    return {
        (path[0], path[1] + first[path[0]], *path[2:])
        if len(path) > 1 and isinstance(path[1], int) and path[0] in first and isinstance(own.data.get(path[0]), list)
        else path: mark
        for path, mark in own.marks.items()
    }


def _removed(base: Mapping[str, Any], own: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Entries of the wrapped method that this file sets to null."""
    return {
        (group, name)
        for group in (*GROUPS, "constants")
        for name, entry in (own.get(group) or {}).items()
        if entry is None and name in (base.get(group) or {})
    }


def _forget(data: dict[str, Any], removed: set[tuple[str, str]]) -> None:
    """Leave out search paths and changes of variants that speak of removed entries, and variants that spoke of nothing else."""

    def gone(path: Any) -> bool:
        return steps_of(str(path))[:2] in removed

    if isinstance(search := data.get("search"), dict):
        data["search"] = {path: value for path, value in search.items() if not gone(path)}
    if isinstance(variants := data.get("variants"), list):
        left = [(_without(variant, gone) if isinstance(variant, dict) else variant, variant) for variant in variants]
        data["variants"] = [kept for kept, variant in left if kept == variant or kept.get("set") or kept.get("drop")]


def _without(variant: dict[str, Any], gone: Callable[[Any], bool]) -> dict[str, Any]:
    kept = dict(variant)
    if isinstance(drop := variant.get("drop"), list):
        kept["drop"] = [path for path in drop if not gone(path)]
    if isinstance(changes := variant.get("set"), dict):
        kept["set"] = {path: value for path, value in changes.items() if not gone(path)}
    return kept


_OWN = ("method", "title", "paper", "fidelity", "bench", "wraps")


def _merge(base: Any, own: Any) -> Any:
    """``own`` over ``base``: mappings join by key, a null drops an entry, own variants and rules follow, all else replaces."""
    if not isinstance(base, dict) or not isinstance(own, dict):
        return own
    merged = {key: value for key, value in base.items() if key not in _OWN or key not in own}
    for key, value in own.items():
        if value is None and key in merged:
            del merged[key]
        elif key in ("variants", "rewrite") and isinstance(merged.get(key), list) and isinstance(value, list):
            merged[key] = [*merged[key], *value]
        else:
            merged[key] = _merge(merged.get(key), value) if key in merged else value
    return merged


def _expand_dotted(document: Document) -> None:
    """``reduce.over: [...]`` inside a term means ``reduce: {over: [...]}``; terms with ``like`` keep it for the copy."""
    terms = document.data.get("terms")
    for name, term in (terms or {}).items() if isinstance(terms, dict) else ():
        if isinstance(term, dict) and "like" not in term:
            for key in [k for k in term if "." in k]:
                set_path(
                    document, ("terms", name, *key.split(".")), term.pop(key), create=True, mark=("terms", name, key)
                )


def _expand_likes(document: Document) -> None:
    """Terms with ``like: other`` start as a copy of that term; their own keys go on top."""
    terms = document.data.get("terms")
    if not isinstance(terms, dict):
        return
    for name in list(terms):
        _expand_like(document, terms, name, ())


def _expand_like(document: Document, terms: dict[str, Any], name: str, seen: tuple[str, ...]) -> None:
    term = terms[name]
    if not isinstance(term, dict) or "like" not in term:
        return
    source, place = term["like"], ("terms", name, "like")
    if source in (*seen, name) or not isinstance(source, str) or not isinstance(terms.get(source), dict):
        reason = "copies itself" if source in (*seen, name) else f'no term "{source}".{choices(str(source), terms)}'
        document.report(place, reason)
        term.pop("like")
        return
    _expand_like(document, terms, source, (*seen, name))
    own = {key: value for key, value in term.items() if key != "like"}
    terms[name] = copy.deepcopy(terms[source])
    _copy_marks(document, ("terms", source), ("terms", name))
    for key, value in own.items():
        set_path(document, ("terms", name, *key.split(".")), value, create=True, mark=("terms", name, key))


def _apply_variants(document: Document, chosen: Collection[int]) -> None:
    variants = document.data.get("variants")
    dropped: set[Steps] = set()
    for index, variant in enumerate(variants if isinstance(variants, list) else ()):
        if index not in chosen or not isinstance(variant, dict):
            continue
        for path in variant.get("drop") or []:
            _drop(document, steps_of(str(path)))
            dropped.add(steps_of(str(path)))
        for path, value in (variant.get("set") or {}).items():
            steps = steps_of(path)
            dropped.discard(steps)
            if steps[:2] not in dropped:  # a part of an entry that is gone is not wanted either
                target = _inside_copy(document, steps)
                set_path(document, target, copy.deepcopy(value), create=True, mark=("variants", index, "set", path))


def _inside_copy(document: Document, steps: Steps) -> Steps:
    """Where a change inside a term with ``like`` waits for the copy: under one dotted key, so that it joins what is copied."""
    terms = document.data.get("terms")
    term = terms.get(steps[1]) if isinstance(terms, dict) and steps[0] == "terms" and len(steps) > 3 else None
    if isinstance(term, dict) and "like" in term and steps[2] not in term:
        return (*steps[:2], ".".join(map(str, steps[2:])))
    return steps


def holds(when: Mapping[str, Any], context: Context) -> bool:
    """True where all conditions of a variant hold."""
    for key, wanted in when.items():
        patterns = [wanted] if isinstance(wanted, str) else list(wanted)
        if not any(fnmatch.fnmatchcase(context.get(key, ""), str(pattern)) for pattern in patterns):
            return False
    return True


def _drop(document: Document, steps: Steps) -> None:
    holder: Any = document.data
    for step in steps[:-1]:
        holder = holder.get(step, {}) if isinstance(holder, dict) else {}
    if isinstance(holder, dict):
        holder.pop(steps[-1], None)


def _move_marks(document: Document, source: Steps, target: Steps) -> None:
    """Values now found at ``target`` were written at ``source``."""
    if source == target:
        return
    for path in [p for p in document.marks if p[: len(target)] == target]:
        del document.marks[path]
    _copy_marks(document, source, target)
    document.marks.setdefault(target, document.mark(source))


def _copy_marks(document: Document, source: Steps, target: Steps) -> None:
    size = len(source)
    for path, mark in list(document.marks.items()):
        if path[:size] == source:
            document.marks.setdefault((*target, *path[size:]), mark)
