"""Who takes part: the plain student, the methods, and controls that need no teacher's knowledge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from kdflow.errors import SpecError, UsageError, choices
from kdflow.experiment.build import brings_architecture
from kdflow.experiment.find import names_in
from kdflow.experiment.hashes import digest
from kdflow.experiment.identity import Identity
from kdflow.experiment.reading import is_bench_path, read_method
from kdflow.experiment.request import with_length
from kdflow.experiment.session import Preview, Session
from kdflow.experiment.setup import Setting, prepare
from kdflow.experiment.shelf import Shelf
from kdflow.resources import specs_folder
from kdflow.search.space import SHARE, Space, ranges_of_weights_as_share, share_range, space_of
from kdflow.spec.balance import Share
from kdflow.spec.bench import UNTRAINED, Bench, Recipe
from kdflow.spec.method import PARENT, Method, SearchRange

Kind = Literal["plain", "method", "control"]
PLAIN = "plain student"
LONGER, AVERAGE, SMOOTHING, RANDOM = "longer training", "ema", "label smoothing", "random teacher"
CONTROLS = (LONGER, AVERAGE, SMOOTHING, RANDOM)
RATE, EMA = "recipe.optimizer.lr", "recipe.ema"
RATE_FACTOR, WEIGHT_FACTOR = 4.0, 4.0
"""How far the learning rate, and the weights of a method without ranges of its own, are searched in both directions."""
DECAYS = (0.9, 0.98, 0.995, 0.999)
LONGER_BY = 2
"""How many times the images of the others the control of that name sees."""
TUNING_SEED = 1000
"""First of the seeds that values are tuned on; measured seeds are below it."""
ALL = "all"
"""In place of methods: every method that comes with kdflow."""


@dataclass(frozen=True)
class Protocol:
    """What a comparison is.

    Attributes:
        methods: Names or files.
        bench: Name or file.
        seeds: Seeds 0, 1, ... that count.
        budget: Trials that every entry's values are chosen by; 1 takes the declared values.
        tuning_seeds: Seeds of every trial, from :data:`TUNING_SEED` on.
        metric: What is compared, on the test split; trials are judged by it on the validation split.
        against: Methods that the others are compared with too, beside the plain student.
        controls: Which of :data:`CONTROLS` take part.
        overrides: Dotted path of the bench -> value, in every run of every entry.
        steps: Length of every run, in place of the recipe's.
    """

    methods: tuple[str, ...]
    bench: str
    seeds: int = 3
    budget: int = 8
    tuning_seeds: int = 1
    metric: str = "AP"
    against: tuple[str, ...] = ()
    controls: tuple[str, ...] = CONTROLS
    overrides: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None

    @property
    def common(self) -> dict[str, Any]:
        """What is set in every run."""
        return with_length(self.overrides, self.steps)


@dataclass(frozen=True)
class Entrant:
    """One that takes part.

    Attributes:
        name: Its name in the table.
        kind: ``plain``, ``method`` or ``control``.
        spec: The method that is run.
        method: Slug.
        title: Of the paper.
        nodes: Taxonomy nodes of its terms.
        overrides: In every run of it, beside the protocol's.
        space: What is tuned.
        follows: The entry whose tuned values it takes; empty where it has trials of its own.
        definition: Hash of what it runs at the declared values, without seed and threads.
        note: What a reader must know.
    """

    name: str
    kind: Kind
    spec: str
    method: str
    title: str = ""
    nodes: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    space: Space = field(default_factory=lambda: Space({}))
    follows: str = ""
    definition: str = ""
    note: str = ""


@dataclass(frozen=True)
class Lineup:
    """All entries, and who could not take part.

    Attributes:
        entries: The plain student first, then methods, then controls.
        left_out: Name -> why.
        bench: The bench with what the protocol sets.
        bench_hash: Hash of bench and data.
    """

    entries: tuple[Entrant, ...]
    left_out: Mapping[str, str]
    bench: Bench
    bench_hash: str

    def digest(self, protocol: Protocol) -> str:
        """Hash of the whole comparison: the same command on the same code and data has the same."""
        asked = [protocol.seeds, protocol.budget, protocol.tuning_seeds, protocol.metric, protocol.against]
        parts = [[e.name, e.definition, e.space.as_json(), e.follows] for e in self.entries]
        return digest({"asked": asked, "entries": parts, "left_out": sorted(self.left_out)})


def lineup_of(protocol: Protocol, session: Session | Preview) -> Lineup:
    """Compile every entry once.

    A method that does not fit the bench is left out, with the reason; controls likewise.

    Raises:
        SpecError, UsageError: The bench is wrong, there is no such method, or no method fits.
    """
    _check(protocol)
    maker = _Maker(protocol, session)
    plain = maker.plain()
    methods = [entry for name in _methods(protocol) if (entry := maker.method(name)) is not None]
    if not methods:
        reasons = "\n".join(f"{name}: {reason}" for name, reason in maker.left_out.items())
        raise UsageError(f"none of these methods fits the bench {maker.bench.bench}:\n{reasons}")
    names = [entry.name for entry in methods]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f'two of these methods are called "{twice[0]}"; a table needs two names')
    for name in protocol.against:
        if name not in names:
            raise UsageError(f'--against {name}: no such method takes part.{choices(name, names)}')
    entries = (plain, *methods, *maker.controls(methods))
    return Lineup(entries, maker.left_out, maker.bench, maker.bench_hash)


def _check(protocol: Protocol) -> None:
    if unknown := next((name for name in protocol.controls if name not in CONTROLS), None):
        raise UsageError(f'no control "{unknown}".{choices(unknown, CONTROLS)}')
    if protocol.seeds > TUNING_SEED:
        raise UsageError(f"--seeds {protocol.seeds}: at most {TUNING_SEED}; values are tuned on the seeds behind them")
    tuned = [path for path in protocol.overrides if path in (RATE, EMA) and protocol.budget > 1]
    if tuned:
        raise UsageError(f"--set {tuned[0]}: it is tuned; leave it out, or take --budget 1, which tunes nothing")
    own = [path for path in protocol.overrides if not is_bench_path(path)]
    if own:
        raise UsageError(f"--set {own[0]}: it is the method's, and what is set here is the bench's, for all entries")


def _methods(protocol: Protocol) -> Iterator[str]:
    for name in protocol.methods:
        if name == ALL:
            yield from (slug for slug in names_in(specs_folder()) if slug != "baseline")
        elif read_method(name).name == "baseline":
            raise UsageError("baseline is the plain student, which takes part anyway; leave it out")
        else:
            yield name


class _Maker:
    """Makes entries; keeps what is common to all."""

    def __init__(self, protocol: Protocol, session: Session | Preview) -> None:
        self.protocol, self.session, self.shelf = protocol, session, Shelf()
        self.left_out: dict[str, str] = {}
        self.bench: Bench
        self.bench_hash = ""

    def plain(self) -> Entrant:
        setting = self._prepared("baseline", {})
        identity = self.session.identify(setting)
        self.bench, self.bench_hash, self.rate = setting.bench, identity.bench, setting.bench.recipe.optimizer.lr
        return self._entry(PLAIN, "plain", "baseline", setting, identity, {}, {})

    def method(self, spec: str) -> Entrant | None:
        name = read_method(spec).name
        try:
            setting = self._prepared(spec, {})
        except SpecError as error:
            self.left_out[name] = error.faults[0].problem
            return None
        ranged = any(not is_bench_path(path) for path in setting.method.search)
        own = {} if ranged else ranges_of_weights_as_share(setting, weight_ranges(setting.method))
        inherits = any(rule.source != PARENT for rule in setting.method.init)
        note = "the student starts with weights of the teacher" if inherits else ""
        return self._entry(setting.method.method, "method", spec, setting, self.session.identify(setting), {}, own, note)

    def controls(self, methods: Sequence[Entrant]) -> list[Entrant]:
        chosen = [name for name in CONTROLS if name in self.protocol.controls]
        makers = {LONGER: self._longer, AVERAGE: self._average, SMOOTHING: self._smoothing}
        found = [entry for name in chosen if name in makers and (entry := makers[name]()) is not None]
        if RANDOM in chosen:
            found += [entry for method in methods if (entry := self._random(method)) is not None]
        return found

    def _longer(self) -> Entrant | None:
        changes = _longer(self.bench.recipe)
        setting = self._prepared("baseline", changes)
        note = f"sees {LONGER_BY} times the images of the others"
        return self._entry(LONGER, "control", "baseline", setting, self.session.identify(setting), changes, {}, note)

    def _average(self) -> Entrant | None:
        if self.bench.recipe.ema is not None:
            self.left_out[AVERAGE] = "the bench's recipe has a moving average, so every entry has one"
            return None
        own = {EMA: SearchRange(choices=DECAYS)}
        changes = {} if self.protocol.budget > 1 else {EMA: DECAYS[len(DECAYS) // 2]}
        setting = self._prepared("baseline", changes)
        return self._entry(AVERAGE, "control", "baseline", setting, self.session.identify(setting), changes, own)

    def _smoothing(self) -> Entrant | None:
        spec = str(specs_folder() / "controls" / "label-smoothing.yaml")
        try:
            setting = self._prepared(spec, {})
        except SpecError:
            self.left_out[SMOOTHING] = "the student's classes are not learned by cross entropy over a softmax"
            return None
        return self._entry(SMOOTHING, "control", spec, setting, self.session.identify(setting), {}, {})

    def _random(self, method: Entrant) -> Entrant | None:
        name = f"{method.name}, {RANDOM}"
        setting = self._prepared(method.spec, {})
        owners = [owner for owner in setting.bench.all_teachers if owner in setting.detectors]
        reason = ""
        if not owners:
            reason = "the method has no teacher"
        elif learning := next((o for o in owners if any(phase.names(o) for phase in setting.method.phases)), None):
            reason = f"the method trains the {learning} itself"
        elif any(brings_architecture(setting.bench.all_teachers[owner]) for owner in owners):
            reason = "the teacher's architecture comes with its weights"
        if reason:
            self.left_out[name] = reason
            return None
        changes = {f"{owner if owner == 'teacher' else f'teachers.{owner}'}.weights": UNTRAINED for owner in owners}
        changed = self._prepared(method.spec, changes)
        note = f"takes the values tuned for {method.name}"
        identity = self.session.identify(changed)
        made = self._entry(name, "control", method.spec, changed, identity, changes, {}, note)
        if identity.parts["teachers"] == self.session.identify(setting).parts["teachers"]:
            self.left_out[name] = "the bench's teacher is untrained already"
            return None
        return Entrant(**{**vars(made), "space": Space({}), "follows": method.name})

    def _prepared(self, spec: str, changes: Mapping[str, Any]) -> Setting:
        overrides = {**self.protocol.common, **changes}
        return prepare(read_method(spec), self.protocol.bench, overrides=overrides, shelf=self.shelf)

    def _entry(
        self,
        name: str,
        kind: Kind,
        spec: str,
        setting: Setting,
        identity: Identity,
        changes: Mapping[str, Any],
        own: Mapping[str, SearchRange],
        note: str = "",
    ) -> Entrant:
        nodes = dict.fromkeys(node for term in setting.plan.terms if term.is_distillation for node in term.nodes[:1])
        return Entrant(
            name, kind, spec, setting.method.method, setting.method.title, tuple(nodes), dict(changes),
            self._space(setting, own), "", identity.definition, note,
        )

    def _space(self, setting: Setting, own: Mapping[str, SearchRange]) -> Space:
        """The learning rate, for every entry in the same range, and what is the entry's own; nothing where nothing is tuned."""
        if self.protocol.budget < 2:
            return Space({})
        rate = SearchRange(low=self.rate / RATE_FACTOR, high=self.rate * RATE_FACTOR, log=True)
        asked = {RATE: rate, **own}
        space = space_of(setting, asked)  # what a method's own search says of the bench is left aside: all entries have one
        kept = [path for path in space.ranges if path in asked or path == SHARE or not is_bench_path(path)]
        return replace(
            space, ranges={path: space.ranges[path] for path in kept},
            declared={path: value for path, value in space.declared.items() if path in kept},
        )


def weight_ranges(method: Method) -> dict[str, SearchRange]:
    """Ranges around the weights of a method that states none: of every term of its own with a weight above 0, or with a share."""
    ranges: dict[str, SearchRange] = {}
    for name, term in method.terms.items():
        weight = term.weight
        if isinstance(weight, Share):
            ranges[f"terms.{name}.weight.share"] = share_range(weight.share)
        elif weight > 0 and not name.startswith("det."):
            ranges[f"terms.{name}.weight"] = SearchRange(low=weight / WEIGHT_FACTOR, high=weight * WEIGHT_FACTOR, log=True)
    return ranges


def _longer(recipe: Recipe) -> dict[str, Any]:
    """The recipe over more images; where its learning rate drops at steps, the steps move along."""
    length: dict[str, Any] = (
        {"recipe.steps": recipe.steps * LONGER_BY} if recipe.steps else {"recipe.epochs": (recipe.epochs or 1) * LONGER_BY}
    )
    if recipe.schedule.name != "step" or all(point <= 1 for point in recipe.schedule.milestones):
        return length
    moved = [point * LONGER_BY if point > 1 else point for point in recipe.schedule.milestones]
    return {**length, "recipe.schedule.milestones": moved}
