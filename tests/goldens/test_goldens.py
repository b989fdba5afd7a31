"""Every golden case of a method that has a spec, through the spec's compiled terms."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.goldens.harness import ROOT, binding_runs, unbound, verify

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
        verify(run)
    assert not unbound(runs, arrays), f"keys of {case.name} that tests/goldens/{slug}.yaml does not bind"
