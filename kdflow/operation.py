"""An operation: a function or module whose typed signature is its YAML schema.

Parameters annotated with a kind (:mod:`kdflow.kinds`) are inputs and take references in YAML; all other parameters are options
and take literals, checked by pydantic. There is no second list of fields. A module's inputs are those of ``forward``, its
options those of ``__init__``; where its layers depend on the inputs' shapes it has a method ``build(**inputs)`` that is called
once, before training, with values of the right shapes.

    @op("loss.squared_error", gives=like("student"), zero_at_equality=True)
    def squared_error(student: AnyTensor, teacher: AnyTensor) -> AnyTensor:
        return (student - teacher).square()

An op written for one element (``Map``, ``Cells``, ``AnyTensor``) that is given a stack (``Pyramid``) is mapped over it; a module
gets one instance per level unless the spec says ``share: levels``.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel

from kdflow.kinds import Kind, Meta
from kdflow.options import from_signature
from kdflow.registry import Registry

T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True)
class Input:
    """One input of an op.

    Attributes:
        kind: What it must be given.
        required: False when the op has a default for it.
        many: True when it takes a list of references.
        default: Reference used when the spec names none (``targets.boxes``).
    """

    kind: Kind
    required: bool = True
    many: bool = False
    default: str | None = None


@dataclass(frozen=True)
class Like:
    """The rule "this output has the kind of that input", with axes dropped or replaced.

    Attributes:
        source: The input.
        drop: Axes that are used up.
        swap: Axes that get another name, or become several (``{"c": "e c"}``).
        drops: Option that lists further axes that are used up.
        unless: Input with which no axis is used up.
        joined: The result is one tensor, though the input is a list.
        stack: What the result is a list over; None: what the input is.
    """

    source: str
    drop: tuple[str, ...] = ()
    swap: Mapping[str, str] = field(default_factory=dict)
    drops: str = ""
    stack: str | None = None
    unless: str = ""
    joined: bool = False

    def dropped(self, options: Mapping[str, Any], given: Collection[str] = ()) -> tuple[str, ...]:
        """Axes that are used up with these options, where these inputs are given."""
        if self.unless in given:
            return ()
        return (*self.drop, *(options.get(self.drops) or () if self.drops else ()))

    def __call__(self, kinds: Mapping[str, Kind], options: Mapping[str, Any]) -> Kind:
        """The kind of the result for inputs of these kinds."""
        from kdflow.kinds import of_axes

        kind = kinds[self.source]
        if kind.axes is None or kind.opaque:
            return kind
        drop = self.dropped(options, kinds)
        axes = tuple(name for a in kind.axes if a not in drop for name in self.swap.get(a, a).split())
        return of_axes(axes, None if self.joined else self.stack or kind.stack)


def like(
    source: str,
    drop: str | tuple[str, ...] = (),
    swap: Mapping[str, str] | None = None,
    drops: str = "",
    stack: str | None = None,
    unless: str = "",
    joined: bool = False,
) -> Like:
    """The output has the kind of input ``source``; see :class:`Like` for the arguments."""
    return Like(source, (drop,) if isinstance(drop, str) else drop, swap or {}, drops, stack, unless, joined)


Gives = Kind | Like


@dataclass(frozen=True)
class Op:
    """A registered operation, described by its own signature.

    Attributes:
        name: ``kind.name``, as written in YAML.
        target: A function of tensors, or an ``nn.Module`` class.
        gives: Kind rule of the result, or a mapping of output names to rules when the result is a dict.
        defaults: References for inputs that the spec may leave out.
        stochastic: Draws random numbers, so it gets a stream of its own and never merges with an equal node.
        no_grad: Evaluated without gradient (masks, selections, gates).
        zero_at_equality: Its value is 0 when student equals teacher; checked by the contract tests.
        example: For the contract tests: options where defaults do not suffice, and the axes (``"n c"``) of inputs that
            take any tensor but cannot take all; ``3c`` is an axis three times as long as others of its name, None leaves an
            optional input out.
        infer: For functions whose result sizes depend on data: called like the function on fake tensors, returns fake tensors of
            plausible size. None where the function itself runs on fake tensors.
        source: The same value as a Python expression without kdflow, with ``{name}`` for inputs and options; empty where there
            is none. Only such ops may stand in the wiring of an exported student.
    """

    name: str
    target: Callable[..., Any]
    gives: Gives | Mapping[str, Gives]
    defaults: Mapping[str, str] = field(default_factory=dict)
    stochastic: bool = False
    no_grad: bool = False
    zero_at_equality: bool = False
    example: Mapping[str, Any] = field(default_factory=dict)
    infer: Callable[..., Any] | None = None
    source: str = ""

    @property
    def is_module(self) -> bool:
        """True when the op may own weights or state."""
        return inspect.isclass(self.target)

    @property
    def doc(self) -> str:
        """First paragraph of the docstring."""
        return (inspect.getdoc(self.target) or "").split("\n\n")[0].replace("\n", " ")

    @property
    def call(self) -> Callable[..., Any]:
        """The callable that receives the inputs."""
        return typing.cast(Any, self.target).forward if self.is_module else self.target

    @cached_property
    def inputs(self) -> dict[str, Input]:
        """Inputs by name, in the order of the signature."""
        return {n: i for n, i in _read(self.call, self.defaults).items() if isinstance(i, Input)}

    @cached_property
    def observes(self) -> dict[str, Input]:
        """Inputs of ``observe``, for ops that prepare something over the data; empty for all others."""
        observe = getattr(self.target, "observe", None)
        return (
            {} if observe is None else {n: i for n, i in _read(observe, self.defaults).items() if isinstance(i, Input)}
        )

    @cached_property
    def metas(self) -> dict[str, str]:
        """Parameters that the compiler fills in: parameter name -> what is wanted (``strides``, ``canvas``, ``axes``).

        A module takes strides and axes when it is made, and the canvas with every call.
        """
        sources = [self.call, typing.cast(Any, self.target).__init__] if self.is_module else [self.call]
        return {n: m.name for s in sources for n, m in _read(s, self.defaults).items() if isinstance(m, Meta)}

    @cached_property
    def options(self) -> type[BaseModel]:
        """Pydantic model of the options; unknown keys are refused."""
        source = typing.cast(Any, self.target).__init__ if self.is_module else self.target
        return from_signature(self.name, source, without={"self", *_read(source, {})})

    def output_kinds(
        self, kinds: Mapping[str, Kind], options: Mapping[str, Any] | None = None
    ) -> Kind | dict[str, Kind]:
        """Kinds of the result for inputs of these (element) kinds, with these options."""
        said = options or {}
        if isinstance(self.gives, Mapping):
            return {name: _apply(rule, kinds, said) for name, rule in self.gives.items()}
        return _apply(self.gives, kinds, said)


def _apply(rule: Gives, kinds: Mapping[str, Kind], options: Mapping[str, Any]) -> Kind:
    return rule(kinds, options) if isinstance(rule, Like) else rule


OPS: Registry[Op] = Registry("op", "kdflow.ops")


def op(
    name: str,
    *,
    gives: Gives | Mapping[str, Gives] | None = None,
    defaults: Mapping[str, str] | None = None,
    stochastic: bool = False,
    no_grad: bool = False,
    zero_at_equality: bool = False,
    example: Mapping[str, Any] | None = None,
    infer: Callable[..., Any] | None = None,
    source: str = "",
) -> Callable[[T], T]:
    """Register a function or module class as the operation ``name``; see :class:`Op` for the arguments.

    Without ``gives`` the return annotation must be a kind. Raises ValueError for a second owner of a name.
    """

    def register(target: T) -> T:
        rule = gives if gives is not None else _return_kind(target)
        OPS.add(
            name,
            Op(name, target, rule, defaults or {}, stochastic, no_grad, zero_at_equality, example or {}, infer, source),
        )
        return target

    return register


def _return_kind(target: Any) -> Kind:
    call = typing.cast(Any, target).forward if inspect.isclass(target) else target
    marker = _marker(typing.get_type_hints(call, include_extras=True).get("return"))
    if not isinstance(marker, Kind):
        raise TypeError(f"{target!r}: annotate the result with a kind or pass gives=")
    return marker


def _read(call: Callable[..., Any], defaults: Mapping[str, str]) -> dict[str, Input | Meta]:
    """Inputs and metas of a callable's signature, in order."""
    hints = typing.get_type_hints(call, include_extras=True)
    found: dict[str, Input | Meta] = {}
    for name, parameter in inspect.signature(call).parameters.items():
        hint = hints.get(name)
        many = get_origin(hint) is list
        marker = _marker(get_args(hint)[0] if many else hint)
        if isinstance(marker, Meta):
            found[name] = marker
        elif marker is not None:
            required = parameter.default is inspect.Parameter.empty and name not in defaults
            found[name] = Input(marker, required, many, defaults.get(name))
    return found


def _marker(hint: Any) -> Kind | Meta | None:
    """The kind or meta in an annotation such as ``Map``, ``Map | None`` or ``Annotated[...]``."""
    if get_origin(hint) is Annotated:
        return next((a for a in get_args(hint)[1:] if isinstance(a, (Kind, Meta))), None)
    for part in get_args(hint):
        marker = _marker(part) if get_origin(part) is Annotated else None
        if marker is not None and get_origin(hint) is not list:
            return marker
    return None
