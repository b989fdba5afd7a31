"""Shipped specs on given values, for tests of their properties."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdflow.graph.compile import compile_given
from kdflow.graph.plan import Plan
from kdflow.spec.resolve import load_method

SPECS = Path(__file__).parents[2] / "specs"


def plan_of(
    slug: str,
    values: Mapping[str, Any],
    *,
    family: str = "two-stage",
    changes: Mapping[str, Any] | None = None,
    drop: tuple[str, ...] = (),
    **options: Any,
) -> Plan:
    """The plan of a shipped spec on given values; ``changes`` are dotted overrides, ``drop`` dotted paths left out."""
    spec = load_method(SPECS / f"{slug}.yaml", lambda name: SPECS / f"{name}.yaml")
    for path in drop:
        section, _, name = path.partition(".")
        del spec.document.data[section][name]
    families = {"student": family, "teacher": family}
    method = spec.resolve({f"{owner}.family": family for owner in families}, changes or {})
    return compile_given(method, spec.document, values, families=families, **options)


def terms_of(plan: Plan, *names: str) -> list[Tensor]:
    """Unweighted values of these terms."""
    raw = plan.evaluate({}, [f"kd/{name}" for name in names])
    return [raw[f"kd/{name}"] for name in names]


def fill(plan: Plan, prefix: str, value: float) -> None:
    """Set all parameters whose names start with ``prefix``."""
    with torch.no_grad():
        for name, parameter in plan.ops.named_parameters():
            if name.startswith(prefix):
                parameter.fill_(value)


def maps(*shapes: tuple[int, ...], seed: int = 0, grad: bool = False) -> list[Tensor]:
    """Normal random tensors of these shapes."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).requires_grad_(grad) for shape in shapes]
