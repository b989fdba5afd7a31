"""Every golden case of a method that has a spec, through the spec's compiled terms."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.goldens.harness import ROOT, actual, binding_runs, compare, evaluate, expectations, unbound

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("KDFLOW_GOLDENS", HERE))


def cases() -> list[tuple[str, Path]]:
    methods = sorted(p for p in FOLDER.iterdir() if p.is_dir() and (ROOT / "specs" / f"{p.name}.yaml").exists())
    return [(folder.name, case) for folder in methods for case in sorted(folder.glob("case*.npz"))]


def test_there_are_cases() -> None:
    assert len(cases()) >= 5


@pytest.mark.parametrize(("slug", "case"), cases(), ids=lambda v: v.stem if isinstance(v, Path) else v)
def test_spec_reproduces_the_original_code(slug: str, case: Path) -> None:
    arrays = dict(np.load(case))
    runs = binding_runs(slug, arrays)
    assert runs, f"no run of tests/goldens/{slug}.yaml applies to {case.name}"
    for run in runs:
        compared = expectations(run)
        for dtype in (torch.float32, torch.float64):
            keys = [key for key in compared if key.startswith("expected64.") == (dtype is torch.float64)]
            if not keys:
                continue
            plan, raw, inputs = evaluate(run, dtype)
            for key in keys:
                compare(run, key, compared[key], actual(run, plan, raw, inputs, compared[key]))
    assert not unbound(runs, arrays), f"keys of {case.name} that tests/goldens/{slug}.yaml does not bind"
