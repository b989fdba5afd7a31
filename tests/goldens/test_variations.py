"""Shipped specs against the formulas of ``references``, on inputs of other shapes than the golden cases have."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from tests.goldens.harness import binding_runs, verify
from tests.goldens.references import Arrays
from tests.goldens.test_goldens import FOLDER

HERE = Path(__file__).parent / "references"
SLUGS = sorted(path.stem.replace("_", "-") for path in HERE.glob("[a-z]*.py"))
GOLDENS = [(slug, case) for slug in SLUGS for case in sorted((FOLDER / slug).glob("case*.npz"))]


def reference_of(slug: str) -> ModuleType:
    return importlib.import_module(f"tests.goldens.references.{slug.replace('-', '_')}")


VARIATIONS = [
    pytest.param(slug, draw.arrays, id=f"{slug}-{number}")
    for slug in SLUGS
    for number, draw in enumerate(reference_of(slug).cases())
]


def expected(slug: str, arrays: Arrays) -> dict[str, np.ndarray]:
    """The reference's values, and their gradients for everything of the student, under the keys of a golden case."""
    module, case = reference_of(slug), {}
    for key, value in arrays.items():
        tensor = torch.as_tensor(value)
        case[key] = tensor.double() if tensor.is_floating_point() else tensor
        if key.startswith("student.") and tensor.is_floating_point():
            case[key].requires_grad_()
    values = module.reference(case)
    found = {
        name if name == "mask" or name.startswith("mask.neck") else f"expected64.{name}": v.detach().numpy()
        for name, v in values.items()
    }
    leaves = {key: tensor for key, tensor in case.items() if tensor.requires_grad}
    for prefix, name in getattr(module, "DIFFERENTIATED", {"grad": "total"}).items():
        if name in values and values[name].requires_grad:
            grads = torch.autograd.grad(values[name], list(leaves.values()), retain_graph=True, allow_unused=True)
            for (key, leaf), grad in zip(leaves.items(), grads, strict=True):
                found[f"expected64.{prefix}.{key}"] = (torch.zeros_like(leaf) if grad is None else grad).numpy()
    return found


@pytest.mark.parametrize(("slug", "case"), GOLDENS, ids=lambda v: v.stem if isinstance(v, Path) else v)
def test_the_reference_is_the_original_code(slug: str, case: Path) -> None:
    arrays = dict(np.load(case))
    inputs = {key: value for key, value in arrays.items() if not key.startswith(("expected.", "expected64."))}
    compared = 0
    for key, value in expected(slug, inputs).items():
        golden = arrays.get(key, arrays.get(key.replace("expected64.", "expected.")))
        if golden is not None:
            scale = max(float(np.abs(golden).max()), 1e-9) if golden.size else 1.0
            np.testing.assert_allclose(value, golden, rtol=2e-4, atol=2e-4 * scale, err_msg=key)
            compared += 1
    assert compared


@pytest.mark.parametrize(("slug", "arrays"), VARIATIONS)
def test_spec_follows_the_formula_on_other_shapes(slug: str, arrays: Arrays) -> None:
    wanted = expected(slug, arrays)
    compared: set[Any] = set()
    for run in binding_runs(slug, {**arrays, **wanted}):
        compared.update(verify(run))
    values = {key for key in wanted if ".grad" not in key and key != "expected64.all"}
    assert values
    assert values <= compared
