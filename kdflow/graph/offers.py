"""Detectors that offer what any of several offers: to judge names and kinds where no bench says which detector it will be."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Literal, get_args, get_origin

import torch
from pydantic.fields import FieldInfo
from torch import nn

from kdflow.ports import DETECTORS, Call, Detector, Port
from kdflow.standard_ports import STANDARD_PORTS, standard_of


class Merged(Mapping[str, Any]):
    """Several mappings as one; the first that has a key gives its value, and later ones are not made before they are needed."""

    def __init__(self, parts: Iterable[Callable[[], Mapping[str, Any]]]) -> None:
        self._parts = tuple(parts)

    def __getitem__(self, key: str) -> Any:
        for part in self._asked(key):
            if key in (found := part()):
                return found[key]
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        seen: set[str] = set()
        for part in self._parts:
            for key in part():
                if key not in seen:
                    seen.add(key)
                    yield key

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _asked(self, key: str) -> Iterable[Callable[[], Mapping[str, Any]]]:
        """The parts in the order in which they are asked for a key."""
        return self._parts


@functools.cache
def bare(name: str, **changed: Any) -> Detector | None:
    """A registered detector without weights or memory; None where it cannot be built so.

    Args:
        name: Registered name.
        changed: Options that are not as they are by default; one that needs options begins with those of its tiny model.
    """
    family = DETECTORS.get(name)
    options = {**({} if family.stands_alone else family.tiny), **changed}
    try:
        with torch.device("meta"):
            return family.build(classes=("a", "b"), **options)
    except Exception:  # its options are the user's to give, or a package is not installed
        return None


class AnyDetector(Detector):
    """What any detector of some families offers; nothing of it is run or built.

    Args:
        families: Names of families.
    """

    def __init__(self, families: Iterable[str]) -> None:
        wanted = set(families)
        named = [n for n in DETECTORS.names() if DETECTORS.get(n).family in wanted]
        members = tuple(sorted(named, key=lambda name: DETECTORS.get(name).library != "torchvision"))
        super().__init__(
            "any detector",
            next(iter(sorted(wanted)), ""),
            "",
            ("a", "b"),
            nn.Module(),
            _merged(members, "stages"),
            _Calls(members),
            _merged(members, "losses"),
        )
        object.__setattr__(self, "members", members)
        object.__setattr__(self, "families", frozenset(wanted))

    members: tuple[str, ...]
    families: frozenset[str]

    @cached_property
    def ports(self) -> Mapping[str, Port]:
        """Ports of all of them."""
        return _Ports(self.members)

    def standard(self, name: str) -> Port | None:
        """A standard port that has a place in transformers, if they are among the families: one of them offers it.

        That is a promise of the standard ports, which their contract keeps, so no transformer is built to know it.
        """
        known = STANDARD_PORTS.get(name)
        return Port(name).within("transformer") if known and known.node[1] and "transformer" in self.families else None

    @property
    def unknown(self) -> bool:
        """True when what these detectors offer is not known in full."""
        return any(bare(name) is None for name in self.members)

    def called(self, call: str) -> list[Call]:
        """The calls of this name."""
        return [d.calls[call] for name in self.members if (d := bare(name)) is not None and call in d.calls]


def _merged(members: Iterable[str], part: str) -> Merged:
    return Merged([one for _, one in _named_parts(members, part)])


def _named_parts(members: Iterable[str], part: str) -> list[tuple[str, Callable[[], Mapping[str, Any]]]]:
    """Detector -> what it offers, as it is by default; then detector -> what it offers with other options."""
    names = tuple(members)
    return [(name, functools.partial(made, name, part)) for made in (_part, _switched) for name in names]


class _Ports(Merged):
    """Ports by name; one that stands in transformers only is looked for there first, so that nothing else is built for it."""

    def __init__(self, members: Iterable[str]) -> None:
        named = _named_parts(members, "ports")
        super().__init__([one for _, one in named])
        others = [DETECTORS.get(name).family != "transformer" for name, _ in named]
        self._transformers_first = [self._parts[i] for i in sorted(range(len(others)), key=lambda i: others[i])]

    def _asked(self, key: str) -> Iterable[Callable[[], Mapping[str, Any]]]:
        in_cnn, in_transformer = standard.node if (standard := standard_of(key)) else (None, None)
        return self._transformers_first if in_transformer and not in_cnn else self._parts


class _Calls(Merged):
    """Calls by name; calls of one name are one call with the inputs, outputs and options of all."""

    def __init__(self, members: Iterable[str]) -> None:
        plain = [functools.partial(_part, name, "calls") for name in members]
        super().__init__([*plain, *(functools.partial(_switched_calls, name) for name in members)])

    def __getitem__(self, key: str) -> Call:
        found: dict[str, Merged] = {
            part: Merged(functools.partial(_of_call, calls, key, part) for calls in self._parts)
            for part in ("inputs", "outputs", "options")
        }
        if not any(key in calls() for calls in self._parts):
            raise KeyError(key)
        return Call(found["inputs"], found["outputs"], found["options"])


def _part(name: str, part: str) -> Mapping[str, Any]:
    detector = bare(name)
    return {} if detector is None else getattr(detector, part)


@functools.cache
def _switched(name: str, part: str) -> Mapping[str, Any]:
    """What a detector offers with one of its options that name their choices set to another one."""
    return {key: value for detector in _variations(name) for key, value in getattr(detector, part).items()}


@functools.cache
def _switched_calls(name: str) -> Mapping[str, Call]:
    """The same for calls, which have more inputs and outputs under some options."""
    found: dict[str, Call] = {}
    for detector in _variations(name):
        for key, call in detector.calls.items():
            old = found.get(key, Call({}, {}))
            found[key] = Call({**old.inputs, **call.inputs}, {**old.outputs, **call.outputs}, {**old.options, **call.options})
    return found


def _variations(name: str) -> list[Detector]:
    fields = DETECTORS.get(name).options.model_fields
    built = [bare(name, **{option: choice}) for option, field in fields.items() for choice in _other_choices(field)]
    return [detector for detector in built if detector is not None]


def _other_choices(field: FieldInfo) -> list[Any]:
    """Values of a yes-or-no option, or of one that lists its words, beside the default."""
    if isinstance(field.default, bool):
        return [not field.default]
    literals = [a for a in (field.annotation, *get_args(field.annotation)) if get_origin(a) is Literal]
    return [word for literal in literals for word in get_args(literal) if word != field.default]


def _of_call(calls: Callable[[], Mapping[str, Call]], name: str, part: str) -> Mapping[str, Any]:
    call = calls().get(name)
    return {} if call is None else getattr(call, part)


