"""The method: one declared distillation, ``specs/<slug>.yaml``.

These models say what a document may contain. What an op's keys mean is said by the op's own signature and checked when the graph
is built, so entries of ``nodes`` and ``terms`` keep their remaining keys as ``arguments``.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from kdflow.spec.balance import Control, Share
from kdflow.spec.bench import MAX_STEPS, SLUG, Strict
from kdflow.spec.metrics import metric_problem, plain_name

Axis = str
DIVISORS = frozenset({"rows", "elements", "b", "c", "y", "x", "n", "r", "q", "h", "k", "e", "i", "j", "m"})
"""Axis names and words that ``over`` takes beside references."""
Divisor = Annotated[float, Field(gt=0, le=1e12)] | str
LevelWeight = Annotated[float, Field(ge=0, le=1e12)]


class Paper(Strict):
    """Where the method was published."""

    title: str = ""
    arxiv: str = ""
    doi: str = ""
    venue: str = ""
    year: int | None = Field(default=None, ge=1900, le=2200)
    code: str = Field(default="", description="official repository")


class Reduce(Strict):
    """How an elementwise loss becomes one number. Every axis is summed unless ``sum`` lists fewer; the others are averaged.

    The sum is divided by the product ``over``: numbers, axis names (their size in the student's tensor), ``rows`` (selected
    rows), ``elements``, ``objects`` (of the ground truth), and node references (the sum of their entries; boxes are counted).
    """

    sum: Literal["all"] | tuple[Axis, ...] = "all"
    over: tuple[Divisor, ...] = ()
    floor: Annotated[float, Field(gt=0, le=1e12)] | Literal["b"] | None = Field(
        default=None, description="the divisor is at least this; b is the number of images"
    )
    eps: float = Field(default=0.0, ge=0, description="added to the divisor")
    root: tuple[Axis, ...] = Field(
        default=(), description="sum over these axes first and take the square root (a norm)"
    )
    scope: Literal["batch", "image"] = Field(
        default="batch", description="one quotient per batch, or one per image"
    )
    images: Literal["mean", "sum"] = Field(default="mean", description="with scope: image, how the images are joined")
    levels: Literal["sum", "mean", "pooled"] | tuple[LevelWeight, ...] | None = Field(
        default=None,
        description="how entries of a stack are joined; pooled adds numerators and divisors before dividing, "
        "a list of weights, one for each entry, makes a weighted sum",
    )

    @property
    def is_plain_sum(self) -> bool:
        """True where nothing is averaged or divided, so that entries of a stack are summed as well."""
        return self.sum == "all" and not self.over and not self.root and (self.scope == "batch" or self.images == "sum")

    @model_validator(mode="after")
    def _of_one_scope(self) -> Reduce:
        if self.scope == "batch" and self.images == "sum":
            raise ValueError("images: sum joins the quotients of images; write scope: image beside it")
        if self.scope == "image" and self.floor == "b":
            raise ValueError("floor: b is for the divisor of a whole batch; with scope: image give a number")
        return self


MAX_WEIGHT = 1e30
"""Beyond it, and below its inverse, single-precision numbers end."""
MEAN = Reduce(over=("elements",))
SHORTHANDS = {
    "mean": MEAN, "sum": Reduce(), "batch_mean": Reduce(over=("b",)),
    "sum_of_means": MEAN.model_copy(update={"levels": "sum"}), "mean_of_means": MEAN.model_copy(update={"levels": "mean"}),
}


class NodeEntry(BaseModel):
    """One node: an op, a call of a detector's stages, or an entry of ``modules`` applied to inputs."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    op: str | None = None
    call: str | None = None
    module: str | None = Field(default=None, description="apply an entry of modules")
    share: Literal["levels"] | None = Field(default=None, description="one set of weights for all entries of a stack")

    @model_validator(mode="after")
    def _one_action(self) -> NodeEntry:
        if sum(x is not None for x in (self.op, self.call, self.module)) != 1:
            raise ValueError("a node has exactly one of op:, call: and module:")
        return self

    @property
    def arguments(self) -> dict[str, Any]:
        """Keys that belong to the op or call."""
        return dict(self.model_extra or {})


class Build(BaseModel):
    """A part of a detector with random weights. Keys beside these are the detector's own options."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    detector: str = Field(description="a registered detector")
    part: str = Field(description="the call of that detector whose stages are built")

    @property
    def options(self) -> dict[str, Any]:
        """Options of the detector."""
        return dict(self.model_extra or {})


class ModuleEntry(BaseModel):
    """A piece with weights that several nodes may share: an op's layers, a copy of a call, or a part of another detector."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, serialize_by_alias=True)
    op: str | None = None
    source: str | None = Field(
        default=None, alias="copy", description="OWNER.CALL whose stages are copied, weights included"
    )
    build: Build | None = Field(default=None, description="a part of a detector that starts from random weights")
    like: str | None = Field(default=None, description="with build: the place that the part stands on, as student.neck")
    trainable: bool = Field(default=True, description="copies only: false keeps the copied weights as they are")

    @model_validator(mode="after")
    def _one_origin(self) -> ModuleEntry:
        if sum(origin is not None for origin in (self.op, self.source, self.build)) != 1:
            raise ValueError("a module has exactly one of op:, copy: and build:")
        if self.source is None and not self.trainable:
            raise ValueError("trainable: is for copies; leave other modules out of a phase's train: instead")
        if self.source is not None and self.arguments:
            raise ValueError(f"a copy takes no options ({', '.join(self.arguments)}); its calls do")
        if self.build is not None and self.arguments:
            raise ValueError(f"options of the built detector ({', '.join(self.arguments)}) stand inside build:")
        if (self.build is None) != (self.like is None):
            raise ValueError("build: and like: belong together, as in {build: {detector: fcos, part: head}, like: student.neck}")
        return self

    @property
    def arguments(self) -> dict[str, Any]:
        """Options of the op."""
        return dict(self.model_extra or {})


def _number_or_share(value: Any) -> str:
    """Which of the two forms of a weight was written; the tags are left out of messages."""
    return "dict[str,any]" if isinstance(value, (dict, Share)) else "float"


Weight = Annotated[
    Annotated[float, Tag("float")] | Annotated[Share, Tag("dict[str,any]")], Discriminator(_number_or_share)
]


class TermEntry(BaseModel):
    """One loss summand. Keys beside these belong to the loss op (student, teacher, temperature ...)."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    loss: str | None = None
    value: str | None = Field(default=None, description="reference of a scalar, instead of a loss")
    weight: Weight = Field(
        default=1.0,
        description="factor outside of everything, never negative; 0 leaves the term out; {share: S} sets it at the start",
    )
    control: Control | None = Field(default=None, description="keeps a share of the gradient during training")
    sign: Literal["plus", "minus"] = Field(
        default="plus", description="minus subtracts the term, so that the student is pushed away from what it compares"
    )
    factors: tuple[str, ...] = ()
    rows: str | tuple[str, ...] | None = None
    reduce: Reduce = MEAN
    schedule: dict[str, Any] = Field(default_factory=dict)
    at: str | tuple[str, ...] | None = None
    drop: bool = Field(default=False, description="det.<name> only: leave this loss of the detector out")

    @field_validator("weight")
    @classmethod
    def _sensible(cls, weight: float | Share) -> float | Share:
        if isinstance(weight, Share):
            return weight
        if weight < 0:
            raise ValueError("a weight is not negative; where the student is to be pushed away, write sign: minus beside it")
        if weight > MAX_WEIGHT or 0 < weight < 1 / MAX_WEIGHT:
            raise ValueError(f"a weight is 0, or between {1 / MAX_WEIGHT:g} and {MAX_WEIGHT:g}")
        return weight

    @property
    def signed_weight(self) -> float:
        """The weight as it enters the sum; 1 for one that is yet to be set."""
        weight = 1.0 if isinstance(self.weight, Share) else self.weight
        return -weight if self.sign == "minus" else weight

    @property
    def share(self) -> float | None:
        """The share of the gradient that sets the weight."""
        return self.weight.share if isinstance(self.weight, Share) else None

    @field_validator("reduce", mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        if isinstance(value, str):
            if value not in SHORTHANDS:
                raise ValueError(f'"{value}" is no reduction; write {", ".join(SHORTHANDS)} or a mapping with over:')
            return SHORTHANDS[value]
        if isinstance(value, dict) and "layers" in value:
            return {("levels" if key == "layers" else key): item for key, item in value.items()}
        return value

    @property
    def arguments(self) -> dict[str, Any]:
        """Keys that belong to the loss op."""
        return dict(self.model_extra or {})


class SearchRange(Strict):
    """What Optuna may choose for one dotted path."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = Field(default=None, gt=0)
    choices: tuple[Any, ...] = ()

    @model_validator(mode="after")
    def _range_or_choices(self) -> SearchRange:
        if self.choices:
            if unread := [key for key in ("low", "high", "log", "step") if getattr(self, key) not in (None, False)]:
                raise ValueError(f"{', '.join(unread)} has no effect beside choices; leave one of the two out")
            return self
        if self.log and self.step is not None:
            raise ValueError("a range is searched in steps or on a log scale, not both")
        if self.low is None or self.high is None:
            raise ValueError("give low and high, or choices")
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError("low must be below high, and above 0 with log")
        if self.step is not None and self.step > self.high - self.low:
            raise ValueError(f"one step of {self.step:g} already leads from {self.low:g} past {self.high:g}")
        return self


class Variant(Strict):
    """Changes that apply where all of ``when`` holds.

    ``when`` compares ``bench``, ``<owner>.family`` or ``<owner>.detector`` with a pattern (``shapes-*``) or a list of them.
    """

    when: dict[str, str | tuple[str, ...]]
    set: dict[str, Any] = Field(default_factory=dict)
    drop: tuple[str, ...] = ()
    reason: str = ""

    @model_validator(mode="after")
    def _changes_something(self) -> Variant:
        if not self.when:
            raise ValueError("when: is empty, so this holds everywhere; write it into the method itself")
        if not self.set and not self.drop:
            raise ValueError("this variant changes nothing; write set: or drop:")
        return self


class Rewrite(Strict):
    """A rule that transforms terms. ``{term}`` stands for a term's name, ``{student}`` and other words for what is at its key."""

    where: dict[str, str | tuple[str, ...]] = Field(
        default_factory=dict, description="term (its name) or a key of the term: a pattern or several; none: every term"
    )
    nodes: dict[str, dict[str, Any]] = Field(default_factory=dict, description="nodes added for each of these terms")
    terms: dict[str, dict[str, Any]] = Field(default_factory=dict, description="terms added beside each of them")
    set: dict[str, Any] = Field(default_factory=dict, description="dotted keys of the term itself: new values")

    @model_validator(mode="after")
    def _changes_something(self) -> Rewrite:
        if not self.nodes and not self.terms and not self.set:
            raise ValueError("this rule changes nothing; write nodes:, terms: or set:")
        return self


class Preparation(BaseModel):
    """Work done over the data before training or before each epoch, by an op with ``observe`` and ``finish``."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    op: str
    every: Literal["start", "epoch"] = "start"
    batches: int | None = Field(
        default=None, gt=0, le=MAX_STEPS, description="at most this many batches; none: the whole training set"
    )

    @property
    def arguments(self) -> dict[str, Any]:
        """Keys that belong to the op."""
        return dict(self.model_extra or {})


PARENT = "parent"
"""Source of ``init:`` that stands for the student of the nearest trial in a search."""


class Inherit(Strict):
    """Student stages that start from other weights: a teacher's, or those of the nearest trial of a search."""

    student: str = Field(description="pattern over the student's parameter names")
    source: str = Field(
        default="teacher", description="which teacher, or parent: the student of the nearest finished trial of a search"
    )
    when: Literal["same_shapes", "any_shapes"] = Field(
        default="same_shapes",
        description="any_shapes takes over what it can where depths and widths differ: the strongest channels of a block, and "
        "new channels and blocks that change nothing at first",
    )


class Phase(Strict):
    """One stretch of training: how long, which terms count, and which parts train (patterns over parameter names).

    A phase trains a teacher only where ``train`` names it (``teacher.*``); ``*`` means all but the teachers.
    """

    name: str
    steps: float = Field(gt=0, le=MAX_STEPS, description="at most 1: a fraction of the run; above: steps")
    terms: tuple[str, ...] = ("*",)
    train: tuple[str, ...] = ("*",)
    init: tuple[Inherit, ...] = Field(default=(), description="weights that the student takes over when the phase begins")

    def trains(self, parameter: str) -> bool:
        """True when this parameter of a plan trains; see :func:`trains`."""
        return any(trains(pattern, parameter) for pattern in self.train)

    def counts(self, term: str) -> bool:
        """True when this term (``kd/neck``, ``det/loss``) is active."""
        return any(fnmatchcase(term, p) or fnmatchcase(term.partition("/")[2], p) for p in self.terms)

    def names(self, owner: str) -> bool:
        """True when it trains this teacher, whole or in part."""
        return any(pattern.partition(".")[0] == owner for pattern in self.train)


def trains(pattern: str, parameter: str) -> bool:
    """True when a pattern of ``train:`` fits a parameter of a plan.

    Names are ``student.backbone...``, ``ops.aligned...`` and ``teacher.backbone...``; ``student.`` may be left out of a
    pattern. A teacher's parameters are fitted only by patterns that begin with the teacher's name.
    """
    owner, _, rest = parameter.partition(".")
    if owner in ("student", "ops"):
        return fnmatchcase(parameter, pattern) or (owner == "student" and fnmatchcase(rest, pattern))
    return pattern.partition(".")[0] == owner and fnmatchcase(parameter, pattern)


def _are_words(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value))


class Method(Strict):
    """One method file."""

    kdflow: Literal[1]
    method: str = Field(pattern=SLUG, max_length=100)
    title: str = ""
    paper: Paper = Paper()
    fidelity: Literal["code", "paper", "reconstructed"] = "code"
    bench: str | None = None
    teacher: Literal["required", "none"] = "required"
    plugins: tuple[str, ...] = ()
    constants: dict[str, int | float] = Field(
        default_factory=dict, description="numbers that several places share; already filled in where they are written"
    )
    modules: dict[str, ModuleEntry] = Field(default_factory=dict)
    prepare: dict[str, Preparation] = Field(default_factory=dict)
    nodes: dict[str, NodeEntry] = Field(default_factory=dict)
    terms: dict[str, TermEntry] = Field(default_factory=dict)
    wiring: dict[str, dict[str, str]] = Field(
        default_factory=dict, description="other inputs for stages of a detector itself, in prediction and export too"
    )
    schedule: dict[str, Any] = Field(default_factory=dict, description="multiplies every distillation term")
    phases: tuple[Phase, ...] = ()
    init: tuple[Inherit, ...] = ()
    search: dict[str, SearchRange] = Field(default_factory=dict)
    metric: tuple[str, ...] = Field(
        default=(), description="what a search judges trials by, unless told; several, costs among them, give a front"
    )
    variants: tuple[Variant, ...] = ()
    wraps: str | None = None
    rewrite: str | tuple[Rewrite, ...] = Field(
        default=(), description="rules that transform terms, or the method whose rules are taken"
    )

    @field_validator("metric", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return tuple(map(plain_name, [value] if isinstance(value, str) else value)) if _are_words(value) else value

    @field_validator("metric")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if problem := next(filter(None, map(metric_problem, names)), ""):
            raise ValueError(problem)
        if len(set(names)) < len(names):
            raise ValueError("each metric stands once")
        return names

    @property
    def distillation_terms(self) -> dict[str, TermEntry]:
        """Terms of the method, without changes to the detector's own losses."""
        return {name: term for name, term in self.terms.items() if not name.startswith("det.")}

    @property
    def detector_terms(self) -> dict[str, TermEntry]:
        """Changes to the detector's own losses, by loss name."""
        return {name[4:]: term for name, term in self.terms.items() if name.startswith("det.")}
