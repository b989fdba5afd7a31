"""Evaluate a shipped spec's compiled terms on the arrays of a golden case, as its binding file says.

A binding ``tests/goldens/<slug>.yaml`` lists *runs*; each applies to the cases that have the keys in ``when`` and says

    method:    spec to evaluate, where it is not the slug
    equals:    key -> number; the run applies where the case's scalar is this
    drop:      dotted spec paths that are left out
    set:       dotted spec path -> literal, "$key" for a scalar of the case ("$" works inside mappings and lists as well), or
               {make: function, of: [keys]}, or "#key" for the length of an array; "key|1" and "$key|1" stand for 1 where the
               case has no such key
    values:    reference in the spec -> key ("student.neck.*" gathers a list) or {make: function, of: key or [keys]}
    leaves:    references beside student.* whose gradients are compared (results of calls that are given)
    params:    key pattern with {placeholders} -> name below plan.ops ({last_k}: {k} counted from the end), or a list of
               {to: name, part: [i, n]} where the i-th of n equal parts of the array has a name of its own (flat: true without
               the first axis); weights of a 1x1 convolution also fit a linear layer
    detectors: owner -> function in builders.py that makes a detector from the case
    expected:  key pattern -> {term: name} | {terms: [names]} | {node: name} | {grad: reference}, with make: for a layout of
               the plan's value and layout: for one of the case's (its gradients are stored as maps);
               joined: true compares the sum of all keys of the pattern; {placeholders} of a pattern stand for words in its names;
               with: lists keys that make: is handed as well; entries: numbers where the numbers in the keys are places in
               the value as they stand (images, of which a case may leave some out), and not ranks (levels that start at 2)
    epoch:     [key of the epoch, key of the number of epochs], for schedules
    training:  key of a flag; 0 evaluates with running statistics
    strides:   reference -> key, list or {make: function, of: [keys]}, of which as many are used as there are levels
    kinds:     reference -> word for its kind, where the shape does not say it
    observe:   true runs the preparations first, on the given values as one batch; only: prepare leaves out nodes and terms
    left_out:  key pattern -> reason, for expectations that are deliberately not compared
    unused:    key pattern -> reason, for inputs that the method does not read

Values are compared weighted unless ``raw: true``. ``expected64.*`` follows ``expected.*`` in float64.
"""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from kdflow.graph.compile import compile_given
from kdflow.graph.plan import Plan
from kdflow.spec.resolve import load_method
from tests.goldens import builders, layouts

ROOT = Path(__file__).parents[2]
Arrays = Mapping[str, np.ndarray]


@dataclass
class Run:
    """One way of evaluating a case."""

    method: str
    declared: dict[str, Any]
    arrays: Arrays
    used: set[str] = field(default_factory=set)

    def __getitem__(self, section: str) -> dict[str, Any]:
        return self.declared.get(section) or {}

    def tolerance(self, what: str) -> float:
        return float({"value": 1e-4, "grad": 2e-4, "value64": 1e-6, "grad64": 1e-5, **self["tolerance"]}[what])


def binding_runs(slug: str, arrays: Arrays) -> list[Run]:
    """The runs of the binding file that apply to a case."""
    binding = yaml.safe_load((Path(__file__).parent / f"{slug}.yaml").read_text())
    runs = []
    for declared in binding["runs"]:
        merged = {**{k: v for k, v in binding.items() if k != "runs"}, **declared}
        if all(fnmatch.filter(arrays, key) for key in declared.get("when", [])) and not any(
            fnmatch.filter(arrays, key) for key in declared.get("unless", [])
        ) and all(float(arrays[key]) == number for key, number in declared.get("equals", {}).items()):
            runs.append(Run(merged.get("method", slug), merged, arrays))
    return runs


def gather(run: Run, key: str) -> Any:
    """The array of a key, or the list of arrays where it ends in ``*`` (ordered by their numbers)."""
    if "*" not in key:
        run.used.add(key)
        return run.arrays[key]
    pattern = re.compile(re.escape(key).replace(r"\*", r"(\d+)") + "$")
    found = sorted(
        (k for k in run.arrays if pattern.match(k)), key=lambda k: [int(n) for n in pattern.match(k).groups()]
    )
    run.used.update(found)
    return [run.arrays[k] for k in found]


def literal(run: Run, value: Any) -> Any:
    """A value of ``set`` with every "$key" replaced by the case's scalar or list."""
    if isinstance(value, dict) and set(value) == {"make", "of"}:
        return getattr(layouts, value["make"])(*(scalar(run, key) for key in value["of"]))
    if isinstance(value, dict):
        return {k: literal(run, v) for k, v in value.items()}
    if isinstance(value, list):
        return [literal(run, v) for v in value]
    if isinstance(value, str) and value.startswith("$"):
        key, _, default = value[1:].partition("|")
        return yaml.safe_load(default) if default and key not in run.arrays else gather(run, key).tolist()
    if isinstance(value, str) and value.startswith("#"):
        return len(gather(run, value[1:]))
    return value


def scalar(run: Run, key: str) -> Any:
    """A scalar of the case, or an array as it is; ``key|1`` is 1 where it is absent."""
    name, _, default = key.partition("|")
    if name not in run.arrays and default:
        return float(default)
    value = gather(run, name)
    return float(value) if isinstance(value, np.ndarray) and value.size == 1 else value


def tensors(value: Any, dtype: torch.dtype) -> Any:
    """Arrays as tensors, floats in ``dtype``, floating leaves with gradient."""
    if isinstance(value, (list, tuple)):
        return type(value)(tensors(v, dtype) for v in value)
    if isinstance(value, dict):
        return {k: tensors(v, dtype) for k, v in value.items()}
    tensor = torch.as_tensor(value)
    return tensor.to(dtype).clone() if tensor.is_floating_point() else tensor


def leaves(value: Any) -> None:
    """Ask for gradients of all floating tensors."""
    if isinstance(value, (list, tuple)):
        for v in value:
            leaves(v)
    elif isinstance(value, torch.Tensor) and value.is_floating_point():
        value.requires_grad_()


def source(run: Run, declared: Any, dtype: torch.dtype) -> Any:
    """The tensors that a binding entry describes."""
    if isinstance(declared, str):
        return tensors(gather(run, declared), dtype)
    keys = [declared["of"]] if isinstance(declared["of"], str) else declared["of"]
    parts = [tensors(gather(run, key), dtype) for key in keys]
    return getattr(layouts, declared["make"])(*parts)


def evaluate(run: Run, dtype: torch.dtype) -> tuple[Plan, dict[str, Any], dict[str, Any]]:
    """Compile the shipped spec on the case's values and evaluate its terms; also returns the leaves by reference."""
    spec = load_method(ROOT / "specs" / f"{run.method}.yaml", lambda name: ROOT / "specs" / f"{name}.yaml")
    if run["only"] == "prepare":
        spec.document.data.update(nodes={}, terms={}, search={}, variants=[])
    for path in run["drop"]:
        section, _, name = path.partition(".")
        del spec.document.data[section][name]
    families = run["families"]
    context = {f"{owner}.family": family for owner, family in families.items()} | dict(run["context"])
    method = spec.resolve(context, {path: literal(run, v) for path, v in run["set"].items()})
    inputs = {name: source(run, declared, dtype) for name, declared in run["values"].items()}
    for name, value in inputs.items():
        if name.startswith("student.") or name in run["leaves"]:
            leaves(value)
    strides = {name: strides_of(run, key)[: len(inputs[name])] for name, key in run["strides"].items()}
    detectors = {owner: getattr(builders, make)(run.arrays, dtype, owner) for owner, make in run["detectors"].items()}
    with new_weights_in(dtype):
        plan = compile_given(
            method, spec.document, inputs, families=families, strides=strides, detectors=detectors, kinds=run["kinds"], seed=0
        ).to(dtype)
    load_parameters(run, plan)
    wanted = {t.name for t in plan.terms}
    epoch, epochs = (int(gather(run, key)) for key in run["epoch"]) if run["epoch"] else (0, 1)
    plan.advance(epoch, epochs, 1)
    if run["observe"]:
        observe(plan)
    if run["training"] and not gather(run, run["training"]):
        plan.train(False)
    raw = plan.evaluate({}, sorted(wanted))
    return plan, raw, inputs


def strides_of(run: Run, declared: Any) -> tuple[int, ...]:
    """What an entry of ``strides`` says."""
    steps = gather(run, declared) if isinstance(declared, str) else literal(run, declared)
    return tuple(int(step) for step in steps)


@contextlib.contextmanager
def new_weights_in(dtype: torch.dtype) -> Iterator[None]:
    """Layers made inside have weights of this type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def observe(plan: Plan) -> None:
    """Show every preparation the given values, as one batch."""
    for node in plan.graph.ordered():
        if node.prepared:
            module: Any = node.module.parts[0].inner
            values = plan.evaluate({}, list(node.operands()))
            module.begin()
            module.observe(**{key: values[str(name)] for key, name in node.inputs.items()})
            module.finish()


def load_parameters(run: Run, plan: Plan) -> None:
    """Copy the case's parameters into the plan's ops; every parameter of the plan must be given."""
    state = plan.ops.state_dict()
    given = set()
    for key in run.arrays:
        for pattern, target in run["params"].items():
            expression = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[\\w.]+?)", re.escape(pattern)) + "$"
            if match := re.match(expression, key):
                place = {k: rank(run, pattern, k, v) for k, v in match.groupdict().items()}
                place |= {f"last_{k}": rank(run, pattern, k, v, last=True) for k, v in match.groupdict().items()}
                run.used.add(key)
                for part in target if isinstance(target, list) else [{"to": target, "part": [0, 1]}]:
                    name, (number, parts) = part["to"].format(**place), part["part"]
                    value = torch.as_tensor(run.arrays[key])
                    value = value.chunk(parts)[number] if parts > 1 else value
                    value = value.flatten(0, 1) if part.get("flat") else value
                    assert fits(state[name], value), f"{key} {value.shape} does not fit {name} {state[name].shape}"
                    state[name].copy_(value.view_as(state[name]))
                    given.add(name)
    trainable = {name for name, _ in plan.ops.named_parameters()}
    assert not trainable - given, f"parameters without a golden value: {sorted(trainable - given)}"


def fits(parameter: torch.Tensor, value: torch.Tensor) -> bool:
    """True for equal shapes, where a linear layer may be stored as a 1x1 convolution."""
    return parameter.shape == value.shape or (*parameter.shape, 1, 1) == value.shape


def rank(run: Run, pattern: str, group: str, word: str, last: bool = False) -> str:
    """A number's place among the numbers that the case has there (stages 1, 2, 3 are entries 0, 1, 2); words stay."""
    expression = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[\\w.]+?)", re.escape(pattern)) + "$"
    found = {m[group] for key in run.arrays if (m := re.match(expression, key))}
    if not word.isdigit():
        return word
    place = sorted(map(int, found)).index(int(word))
    return str(len(found) - 1 - place if last else place)


def total(plan: Plan, raw: Mapping[str, Any], terms: list[str] | None = None) -> torch.Tensor:
    """Sum of the weighted terms."""
    weighted = plan.weigh(raw)
    names = [f"kd/{t}" for t in terms] if terms else list(weighted)
    return torch.stack([weighted[n] for n in names]).sum()


def actual(run: Run, plan: Plan, raw: dict[str, Any], inputs: dict[str, Any], declared: dict[str, Any]) -> Any:
    """What the plan gives for one expectation."""
    if "node" in declared:
        value = plan.evaluate({}, [declared["node"]])[declared["node"]]
    elif "grad" in declared:
        loss = total(plan, raw, declared.get("terms"))
        value = gradient(loss, run, plan, inputs, declared["grad"])
    else:
        names = [declared["term"]] if "term" in declared else declared["terms"]
        value = total(plan, raw, names) if not declared.get("raw") else sum(raw[f"kd/{n}"] for n in names)
    beside = [tensors(gather(run, key), torch.float64) for key in declared.get("with", [])]
    return getattr(layouts, declared["make"])(value, *beside) if "make" in declared else value


def gradient(loss: torch.Tensor, run: Run, plan: Plan, inputs: dict[str, Any], name: str) -> Any:
    """Gradient with respect to a given value or a parameter (of plan.ops or student.*); zeros where none flows."""
    target = inputs.get(name)
    if target is None:
        students = plan.detectors["student"].model.named_parameters(prefix="student")
        target = {**dict(plan.ops.named_parameters()), **dict(students)}[name]
    flat = list(target) if isinstance(target, (list, tuple)) else [target]
    grads = torch.autograd.grad(loss, flat, retain_graph=True, allow_unused=True)
    filled = [torch.zeros_like(t) if g is None else g for t, g in zip(flat, grads)]
    return filled if isinstance(target, (list, tuple)) else filled[0]


def expectations(run: Run) -> dict[str, dict[str, Any]]:
    """``expected.*`` keys of the case that this run compares, with their declaration."""
    found = {}
    for key in run.arrays:
        plain = key.replace("expected64.", "expected.")
        for pattern, declared in run["expected"].items():
            if (words := placed(pattern, plain)) is not None:
                own = {k: v.format(**words) if isinstance(v, str) else v for k, v in declared.items()}
                place = [int(word) for name, word in words.items() if name.startswith("place")]
                found[key] = {**own, "pattern": pattern, "place": place}
    for declared in found.values():
        of_pattern = [other["place"] for other in found.values() if other["pattern"] == declared["pattern"]]
        numbers = [sorted(set(column)) for column in zip(*of_pattern, strict=True)]
        ranks = [column.index(n) for column, n in zip(numbers, declared["place"], strict=True)]
        declared["entry"] = declared["place"] if declared.get("entries") == "numbers" else ranks
    return found


def placed(pattern: str, key: str) -> dict[str, str] | None:
    """What stands in a key for a pattern's stars (``place0``, ``place1``, ...) and {words}; None where it does not fit."""
    numbers = itertools.count()
    expression = re.sub(r"\\\*", lambda _: rf"(?P<place{next(numbers)}>\d+)", re.escape(pattern))
    expression = re.sub(r"\\\{(\w+)\\\}", lambda word: rf"(?P<{word[1]}>[\w.]+?)", expression)
    match = re.fullmatch(expression, key)
    return match.groupdict() if match else None


def compare(run: Run, key: str, declared: dict[str, Any], value: Any) -> None:
    """Assert that the plan's value equals the golden one."""
    for position in declared["entry"] if not declared.get("joined") else []:
        value = value[position]
    expected = torch.as_tensor(joined(run, key, declared) if declared.get("joined") else run.arrays[key])
    expected = expected.float() if expected.dtype is torch.bool else expected
    if "layout" in declared:
        expected = getattr(layouts, declared["layout"])([expected])[0]
    kind = ("grad" if "grad" in declared else "value") + ("64" if key.startswith("expected64") else "")
    tolerance = run.tolerance(kind)
    got = (
        value.detach().to(torch.float64)
        if isinstance(value, torch.Tensor)
        else torch.as_tensor(value, dtype=torch.float64)
    )
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(
        got.reshape(expected.shape),
        expected.to(torch.float64),
        rtol=tolerance,
        atol=max(tolerance * scale, 1e-9),
        msg=lambda text: f"{run.method} {key}: {text}",
    )


def joined(run: Run, key: str, declared: dict[str, Any]) -> np.ndarray:
    """The sum of all arrays of the key's pattern."""
    start = key.partition(".")[0]
    keys = [k for k in run.arrays if k.startswith(start + ".") and placed(declared["pattern"].replace("expected", start, 1), k)]
    return np.sum([run.arrays[k] for k in keys], axis=0)


def verify(run: Run) -> list[str]:
    """Assert that everything the run compares is as expected, in both precisions; the keys of what was compared."""
    compared = expectations(run)
    for dtype in (torch.float32, torch.float64):
        keys = [key for key in compared if key.startswith("expected64.") == (dtype is torch.float64)]
        if not keys:
            continue
        plan, raw, inputs = evaluate(run, dtype)
        for key in keys:
            compare(run, key, compared[key], actual(run, plan, raw, inputs, compared[key]))
    return list(compared)


def unbound(runs: list[Run], arrays: Arrays) -> list[str]:
    """Keys of a case that no run uses, compares or lists with a reason."""
    left: set[str] = set(arrays)
    for run in runs:
        left -= run.used | set(expectations(run))
        for pattern in [*run["left_out"], *run["unused"]]:
            left -= {k for k in left if fnmatch.fnmatchcase(k.replace("expected64.", "expected."), pattern)}
    return sorted(left)
