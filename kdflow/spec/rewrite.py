"""``rewrite``: rules that transform the terms of a method, most often those of the method that the file wraps."""

from __future__ import annotations

import copy
import fnmatch
import re
from collections.abc import Callable, Mapping
from typing import Any

from kdflow.spec.faults import validate
from kdflow.spec.load import Document, Steps
from kdflow.spec.method import Rewrite

_WORD = re.compile(r"\{(\w+)\}")


def apply_rewrites(document: Document, expand: Callable[[Document], None], *, must_fit: bool) -> dict[Steps, Any]:
    """Apply the rules of ``document`` in order and take them out of it; each sees what the one before it left.

    Args:
        document: A method whose variants and ``like`` are resolved; it is changed, and receives the faults.
        expand: Resolves ``like`` of added terms.
        must_fit: A rule that fits no term is a fault (a variant may well have dropped what a rule speaks of).

    Returns:
        Marks of the entries that rules added: path -> place of the rule.
    """
    rules = document.data.pop("rewrite", None) or []
    if not isinstance(rules, list):
        document.report(("rewrite",), "expected a list of rules, or the name of a method that has some")
        return {}
    added: dict[Steps, Any] = {}
    for index, declared in enumerate(rules):
        place: Steps = ("rewrite", index)
        rule = validate(Rewrite, declared, document, place)
        if rule is not None:
            added |= _Application(document, rule, place).run(expand, must_fit)
    return added


class _Application:
    """One rule at work on one method."""

    def __init__(self, document: Document, rule: Rewrite, place: Steps) -> None:
        self.document, self.rule, self.place = document, rule, place
        self.added: dict[Steps, Any] = {}

    def run(self, expand: Callable[[Document], None], must_fit: bool) -> dict[Steps, Any]:
        """For every term that fits: its nodes, then its new terms (copies see it as it was), then its changes."""
        terms = self._group("terms")
        chosen = [name for name, term in terms.items() if isinstance(term, dict) and self._fits(name, term)]
        if not chosen and must_fit:
            self._report("where", f"no term fits; this method has {', '.join(map(str, terms)) or 'none'}")
        words = {name: {**terms[name], "term": name} for name in chosen}
        for name in chosen:
            for group, entries in (("nodes", self.rule.nodes), ("terms", self.rule.terms)):
                self._add(group, entries, words[name])
        expand(self.document)
        for name in chosen:
            for path, value in self.rule.set.items():
                self._set(terms[name], path.split("."), self._filled(value, words[name], "set"))
                self._mark(("terms", name, *path.split(".")), ("set", path))
        return self.added

    def _fits(self, name: str, term: Mapping[str, Any]) -> bool:
        """True where all of ``where`` holds; the detector's own losses are no terms of the method."""
        seen = {**term, "term": name}
        return not name.startswith("det.") and all(
            any(fnmatch.fnmatchcase(str(seen.get(key, "")), pattern) for pattern in _several(wanted))
            for key, wanted in self.rule.where.items()
        )

    def _add(self, group: str, entries: Mapping[str, Any], words: Mapping[str, Any]) -> None:
        holder = self._group(group)
        for template, entry in entries.items():
            name = str(self._filled(template, words, group))
            if name in holder:
                self._report(group, f'{group} have a "{name}" already; put {{term}} into the name')
                continue
            holder[name] = self._filled(entry, words, group)
            written = (*self.place, group, template)
            for path, mark in [(p, m) for p, m in self.document.marks.items() if p[: len(written)] == written]:
                target = (group, name, *path[len(written) :])
                self.added[target] = self.document.marks[target] = mark

    def _set(self, term: dict[str, Any], steps: list[str], value: Any) -> None:
        for step in steps[:-1]:
            inner = term.get(step)
            term[step] = term = dict(inner) if isinstance(inner, dict) else {}
        term[steps[-1]] = value

    def _mark(self, path: Steps, written: Steps) -> None:
        """What now stands at ``path`` was written at a key of the rule."""
        mark = self.document.mark((*self.place, *written))
        for old in [p for p in self.document.marks if p[: len(path)] == path]:
            del self.document.marks[old]
        self.document.marks[path] = self.added[path] = mark

    def _filled(self, value: Any, words: Mapping[str, Any], key: str) -> Any:
        """``value`` with ``{term}`` and ``{KEY}`` replaced by the term's name and by what stands at its key."""
        if isinstance(value, dict):
            return {self._filled(k, words, key): self._filled(v, words, key) for k, v in value.items()}
        if isinstance(value, list):
            return [self._filled(v, words, key) for v in value]
        if not isinstance(value, str):
            return value
        if (whole := _WORD.fullmatch(value)) and whole[1] in words:
            return copy.deepcopy(words[whole[1]])
        return _WORD.sub(lambda found: self._word(found[1], words, key), value)

    def _word(self, word: str, words: Mapping[str, Any], key: str) -> str:
        if not isinstance(words.get(word), str):
            self._report(key, f'terms.{words["term"]} has no "{word}" to put in the place of {{{word}}}')
            return word
        return str(words[word])

    def _group(self, group: str) -> dict[str, Any]:
        found = self.document.data.setdefault(group, {})
        return found if isinstance(found, dict) else {}

    def _report(self, key: str, problem: str) -> None:
        self.document.report((*self.place, key), problem)


def _several(wanted: str | tuple[str, ...]) -> tuple[str, ...]:
    return (wanted,) if isinstance(wanted, str) else wanted
