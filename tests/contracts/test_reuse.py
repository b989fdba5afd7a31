"""Methods compose a shared vocabulary: what the hardest specs need is mostly what others use as well."""

from __future__ import annotations

from pathlib import Path

import yaml

from kdflow.operation import OPS

SPECS = sorted((Path(__file__).parents[2] / "specs").glob("*.yaml"))
HARDEST = {"ld", "crosskd", "gid", "odgk", "detrdistill"}
LARGEST_SHARE = 1 / 3


def ops_in(value: object) -> set[str]:
    """Ops of a spec, those of its variants included: every ``op:`` and ``loss:``, and dotted paths that end in them."""
    if isinstance(value, dict):
        keys = {str(key): part for key, part in value.items()}
        own = {v for k, v in keys.items() if k.rpartition(".")[2] in ("op", "loss") and isinstance(v, str)}
        return own.union(*(ops_in(part) for part in keys.values()))
    return set().union(*(ops_in(part) for part in value)) if isinstance(value, list) else set()


def users() -> dict[str, set[str]]:
    """Op -> methods that use it."""
    found: dict[str, set[str]] = {}
    for path in SPECS:
        for name in ops_in(yaml.safe_load(path.read_text())):
            found.setdefault(name, set()).add(path.stem)
    return found


def test_ops_are_found_in_nodes_terms_modules_preparations_and_variants() -> None:
    written = """
    modules: {m: {op: a}}
    prepare: {p: {op: b}}
    nodes: {n: {op: c, features: op}}
    terms: {t: {loss: d, weight: 1}}
    variants: [{when: {x: y}, set: {nodes.o: {op: e}, terms.t.loss: f}}]
    """
    assert ops_in(yaml.safe_load(written)) == {"a", "b", "c", "d", "e", "f"}


def test_every_op_that_a_spec_names_exists() -> None:
    assert sorted(name for name in users() if name not in OPS) == []


def test_at_most_a_third_of_the_ops_of_the_hardest_specs_serve_one_method_only() -> None:
    by_op = users()
    used = {name for name, methods in by_op.items() if methods & HARDEST}
    alone = sorted(name for name in used if len(by_op[name]) == 1)
    assert len(used) >= 30
    assert len(alone) <= LARGEST_SHARE * len(used), f"{len(alone)} of {len(used)}: {alone}"
