from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import peer, variants
from kdflow.engine.machine import open_machine

TINY = str(Path(__file__).parents[1] / "benches" / "tiny.yaml")


def test_a_missing_package_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchdistill", None)
    reason = peer.missing()
    assert reason is not None
    assert "pip install torchdistill==1.1.5" in reason


def test_torchdistill_computes_the_same_where_it_is_installed() -> None:
    if peer.missing():
        with open_machine("cpu") as machine:
            case = variants.build_case(TINY, "fitnet", machine, size=64)
        assert set(case.left_out) == {"torchdistill", "torchdistill_eval"}
        return
    with open_machine("cpu") as machine:
        case = variants.build_case(TINY, "fgd", machine, size=64)
        found = variants.check_agreement(case)
    assert {"torchdistill", "torchdistill_eval"} <= set(found)
