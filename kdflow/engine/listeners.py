"""What listeners remember: saved with a run's checkpoints, and given back to them when the run goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from kdflow.errors import UsageError
from kdflow.events import Hook, Stateful

_PLAIN = (type(None), bool, int, float, str, bytes, Tensor)


def states(hooks: Iterable[Hook]) -> dict[str, dict[str, Any]]:
    """State of every listener that has one, by the name of its class.

    Raises:
        UsageError: A state holds what cannot be read back from a checkpoint.
    """
    found = {name: dict(hook.state_dict()) for name, hook in _named(hooks).items()}
    for name, state in found.items():
        if strange := _strange(state, ""):
            raise UsageError(
                f"the hook {name} has a state that checkpoints cannot hold: {strange}. "
                "Give tensors, numbers, text, and lists, tuples and dicts of them"
            )
    return found


def give_back(hooks: Iterable[Hook], saved: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Load the saved states; returns in words whose state found no listener, and who begins anew."""
    named = _named(hooks)
    for name in named.keys() & saved.keys():
        named[name].load_state_dict(saved[name])
    gone, new = saved.keys() - named.keys(), named.keys() - saved.keys()
    lost = [f"the checkpoint holds a state of the hook {name}, which does not listen any more" for name in gone]
    fresh = [f"the hook {name} begins anew: the checkpoint holds no state of it" for name in new]
    return tuple(sorted([*lost, *fresh]))


def _named(hooks: Iterable[Hook]) -> dict[str, Stateful]:
    """Listeners with state by the name of their class; a second one of a class is ``NAME 2``."""
    found: dict[str, Stateful] = {}
    seen: Counter[str] = Counter()
    for hook in hooks:
        if isinstance(hook, Stateful):
            name = type(hook).__qualname__
            seen[name] += 1
            found[name if seen[name] == 1 else f"{name} {seen[name]}"] = hook
    return found


def _strange(value: Any, place: str) -> str:
    """Place and type of the first value that a checkpoint would refuse when it is read; empty where there is none."""
    if type(value) in (list, tuple):
        parts = [(f"{place}[{index}]", entry) for index, entry in enumerate(value)]
    elif type(value) is dict:
        keys = [key for key in value if not isinstance(key, (str, int, float))]
        if keys:
            return f"the key {keys[0]!r} at {place or 'its top'}"
        parts = [(f"{place}.{key}".lstrip("."), entry) for key, entry in value.items()]
    else:
        return "" if type(value) in _PLAIN else f"{place or 'all of it'} is a {type(value).__name__}"
    return next(filter(None, (_strange(entry, where) for where, entry in parts)), "")
