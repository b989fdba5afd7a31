"""What may be chosen: the ranges of a spec and of the command line, as Optuna's distributions and as values of dotted paths."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import ValidationError

from kdflow.errors import SpecError, UsageError
from kdflow.experiment.ranges import is_elsewhere
from kdflow.experiment.reading import is_bench_path
from kdflow.experiment.setup import Setting
from kdflow.spec.balance import Share
from kdflow.spec.load import parse
from kdflow.spec.method import SearchRange
from kdflow.spec.paths import steps_of

_NUMBER = r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"^({_NUMBER})\.\.({_NUMBER})((?:,(?:log|step={_NUMBER}))*)$")
_GROUPS = ("constants", "modules", "prepare", "nodes", "terms")
_SCALARS = (type(None), bool, int, float, str)
SHARE = "recipe.calibrate.share"
_OF_THE_BENCH = ("recipe.optimizer.lr", "recipe.optimizer.weight_decay", "recipe.batch")


@dataclass(frozen=True)
class Space:
    """Dotted path -> range.

    Attributes:
        ranges: What is searched.
        declared: The values that spec and bench hold now, where they lie inside their range.
        ignored: Paths of the spec that are not searched -> why.
    """

    ranges: Mapping[str, SearchRange]
    declared: Mapping[str, Any] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)

    def distributions(self) -> dict[str, BaseDistribution]:
        """Path -> Optuna's distribution."""
        return {path: distribution(entry) for path, entry in self.ranges.items()}

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Path -> value for this trial; of a trial that is repeated, the same values again."""
        return {path: self._suggest(trial, path, entry) for path, entry in self.ranges.items()}

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What Optuna stored (text for lists and mappings) as values of the spec."""
        return {path: self._value(path, params[path]) for path in self.ranges if path in params}

    def params(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values of the spec as Optuna stores them."""
        return {path: _label(value) if self.ranges[path].choices else value for path, value in values.items()}

    def grid(self, points: int) -> list[dict[str, Any]]:
        """Optuna parameters of a grid of at most ``points`` points; ranges without steps are divided evenly.

        Raises:
            UsageError: Even two values per path are more than ``points``.
        """
        even = [path for path, entry in self.ranges.items() if not entry.choices and entry.step is None]
        fixed = {path: _listed(entry) for path, entry in self.ranges.items() if path not in even}
        taken = math.prod(map(len, fixed.values()))
        each = int((points / taken) ** (1 / len(even)) + 1e-9) if even else 1
        if taken > points or (even and each < 2):
            least = taken * 2 ** len(even)
            raise UsageError(f"a grid over these {len(self.ranges)} paths has at least {least} points: --trials {least}")
        axes = {path: fixed.get(path) or _spread(self.ranges[path], each) for path in self.ranges}
        return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]

    def as_json(self) -> dict[str, Any]:
        """Plain data, to be compared with that of a stored study."""
        return {path: entry.model_dump(mode="json") for path, entry in sorted(self.ranges.items())}

    def _suggest(self, trial: optuna.Trial, path: str, entry: SearchRange) -> Any:
        if entry.choices:
            return self._value(path, trial.suggest_categorical(path, [_label(choice) for choice in entry.choices]))
        low, high = _bounds(entry)
        if _is_whole(entry):
            return trial.suggest_int(path, int(low), int(high), step=int(entry.step or 1), log=entry.log)
        return trial.suggest_float(path, low, high, step=entry.step, log=entry.log)

    def _value(self, path: str, stored: Any) -> Any:
        for choice in self.ranges[path].choices:
            if _label(choice) == stored and type(_label(choice)) is type(stored):
                return choice
        return stored


def distribution(entry: SearchRange) -> BaseDistribution:
    """A range as Optuna's distribution; whole steps from a whole number give whole numbers."""
    if entry.choices:
        return CategoricalDistribution([_label(choice) for choice in entry.choices])
    low, high = _bounds(entry)
    if _is_whole(entry):
        return IntDistribution(int(low), int(high), log=entry.log, step=int(entry.step or 1))
    return FloatDistribution(low, high, log=entry.log, step=entry.step)


def read_range(text: str) -> SearchRange:
    """``1..16``, ``1..16,log``, ``2..8,step=2``, ``[a, b]``, ``a,b`` or ``{low: 1, high: 16, log: true}`` as a range.

    Raises:
        UsageError: The text is none of these.
    """
    found = _RANGE.match(text.replace(" ", ""))
    entry: Any
    if found:
        words = [word for word in found[3].split(",") if word]
        steps = [float(word.removeprefix("step=")) for word in words if word != "log"]
        entry = {"low": float(found[1]), "high": float(found[2]), "log": "log" in words, "step": steps[-1] if steps else None}
    else:
        entry = _yaml(text if text.lstrip()[:1] in ("[", "{") else f"[{text}]")
    if isinstance(entry, list):
        if len(entry) < 2:
            raise UsageError(f'"{text}" is no range; write 1..16, 1..16,log, 2..8,step=2, or at least two choices: a,b')
        entry = {"choices": entry}
    return checked_range(entry, text)


def checked_range(entry: Any, text: str) -> SearchRange:
    """A range from plain data; raises UsageError in words."""
    try:
        found = SearchRange.model_validate(entry)
        distribution(found)
    except ValidationError as error:
        raise UsageError(f'"{text}" is no range: {error.errors()[0]["msg"].removeprefix("Value error, ")}') from None
    except ValueError as error:  # Optuna refuses what the model lets pass, such as log with a step
        raise UsageError(f'"{text}" is no range: {error}') from None
    return found


def read_includes(pairs: Sequence[str]) -> dict[str, SearchRange]:
    """``["terms.neck.weight=1..16"]`` -> ranges; raises UsageError for anything else."""
    ranges: dict[str, SearchRange] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        if not equals or not path.strip():
            raise UsageError(f"--include {pair}: write PATH=RANGE, for example terms.neck.weight=1..16,log")
        ranges[path.strip()] = read_range(text.strip())
    return ranges


def space_of(setting: Setting, include: Mapping[str, SearchRange] | None = None) -> Space:
    """The spec's ranges that apply on this bench, and those of the command line; what ``--set`` fixes is not searched.

    Where the recipe calibrates, the spec's ranges of weights give way to one of the share that all terms have together.

    Raises:
        UsageError: There is nothing to search, or what is asked for has no effect; lists what could be.
    """
    method, asked = setting.method, include or {}
    _check_effect(setting, asked)
    own = ranges_of_weights_as_share(setting, method.search)
    wanted = {**own, **asked}
    for path, entry in wanted.items():
        checked_range(entry.model_dump(), path)
    ignored = {path: "recipe.calibrate sets it when a run begins" for path in method.search if path not in wanted}
    ignored |= {path: "not part of the method on this bench" for path in own if not _applies(setting, path) and path not in asked}
    ranges = {p: entry for p, entry in wanted.items() if p not in ignored and p not in setting.overrides}
    if not ranges:
        could = [path for path in candidates(setting) if path not in setting.overrides]
        raise UsageError(
            f"{method.method} has no range to search. Give one with --include PATH=RANGE, for example "
            f"--include {could[0]}=0.1..10,log, or in the spec under search:. These are numbers: {', '.join(could)}"
        )
    declared = {path: value for path in ranges if (value := declared_value(setting, path)) is not None}
    inside = {path: value for path, value in declared.items() if _contains(ranges[path], value)}
    return Space(ranges, inside, ignored)


def ranges_of_weights_as_share(setting: Setting, ranges: Mapping[str, SearchRange]) -> dict[str, SearchRange]:
    """The same ranges; where the recipe calibrates, with one of the common share in place of those of numeric weights."""
    weights, calibrate = _calibrated(setting), setting.bench.recipe.calibrate
    if calibrate is None or not weights & ranges.keys():
        return dict(ranges)
    return {SHARE: share_range(calibrate.share), **{path: entry for path, entry in ranges.items() if path not in weights}}


def share_range(share: float) -> SearchRange:
    """Half of a share of the gradient up to half of what it leaves."""
    return SearchRange(low=share / 2, high=(1 + share) / 2)


def _calibrated(setting: Setting) -> set[str]:
    """Paths of the weights that the run sets by itself."""
    if setting.bench.recipe.calibrate is None:
        return set()
    terms = setting.method.terms.items()
    return {f"terms.{name}.weight" for name, term in terms if not (isinstance(term.weight, Share) or name.startswith("det."))}


def _check_effect(setting: Setting, asked: Mapping[str, SearchRange]) -> None:
    """One weight alone has no effect where the recipe gives all terms a common factor; of several, the ratio has."""
    weights = _calibrated(setting)
    if len(weights) == 1 and (without := next(iter(weights & asked.keys()), None)):
        raise UsageError(
            f"--include {without}: recipe.calibrate sets it when a run begins, so its value has no effect. "
            f"Next: --include {SHARE}=0.25..0.75, or no calibration"
        )


def candidates(setting: Setting) -> list[str]:
    """Paths of numbers that could be searched: weights and options of the method, and the learning rate's settings."""
    plain = setting.method.model_dump(mode="json")
    own = [path for group in ("terms", "nodes", "constants", "schedule") for path in _numbers(plain[group], group)]
    return [*own, *_OF_THE_BENCH]


def declared_value(setting: Setting, path: str) -> Any:
    """The value at a path as spec and bench have it now; None where nothing is written."""
    holder: Any = (setting.bench if is_bench_path(path) else setting.method).model_dump(mode="json")
    for step in path.split(".") if is_bench_path(path) else steps_of(path):
        holder = holder.get(str(step)) if isinstance(holder, dict) else None
    if isinstance(holder, dict):  # an entry, as it is written
        return {key: value for key, value in holder.items() if value is not None}
    return holder


def _applies(setting: Setting, path: str) -> bool:
    """False for paths into a node or term that this run does not have, and for options that other detectors have."""
    steps = steps_of(path)
    if is_bench_path(path):
        return not is_elsewhere(path, setting.bench)
    if steps[0] not in _GROUPS or len(steps) < 2:
        return True
    return steps[1] in getattr(setting.method, str(steps[0]))


def _numbers(value: Any, path: str) -> list[str]:
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in _numbers(item, f"{path}.{key}")]
    return [path] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def _contains(entry: SearchRange, value: Any) -> bool:
    if entry.choices:
        return value in entry.choices
    low, high = _bounds(entry)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        return False
    return entry.step is None or math.isclose((value - low) / entry.step, round((value - low) / entry.step), abs_tol=1e-9)


def _bounds(entry: SearchRange) -> tuple[float, float]:
    if entry.low is None or entry.high is None:
        raise UsageError("a range needs low and high, or choices")
    return entry.low, entry.high


def _is_whole(entry: SearchRange) -> bool:
    return entry.step is not None and float(entry.step).is_integer() and _bounds(entry)[0].is_integer()


def _listed(entry: SearchRange) -> list[Any]:
    if entry.choices:
        return [_label(choice) for choice in entry.choices]
    (low, high), step = _bounds(entry), entry.step or 1.0
    values = [low + i * step for i in range(int((high - low) / step + 1e-9) + 1)]
    return [int(value) for value in values] if _is_whole(entry) else values


def _spread(entry: SearchRange, count: int) -> list[float]:
    low, high = _bounds(entry)
    parts = [i / (count - 1) for i in range(count)]
    inner = [low * (high / low) ** part if entry.log else low + (high - low) * part for part in parts[1:-1]]
    return [low, *inner, high]


def _label(choice: Any) -> Any:
    """A choice as Optuna can store it: lists and mappings become text."""
    return choice if isinstance(choice, _SCALARS) else json.dumps(choice)


def _yaml(text: str) -> Any:
    try:
        return parse(f"value: {text}", "--include").data["value"]
    except SpecError as error:
        raise UsageError(f'"{text}" cannot be read: {error.faults[0].problem}') from None
