from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import logging

TINY = str(Path(__file__).parents[1] / "benches" / "tiny.yaml")


def test_tracking_is_compared_with_no_tracking(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--pair", TINY, "--method", "fitnet", "--batch", "2", "--log-every", "1", "--reports", "2", "--rounds", "2"]
    logging.main([*words, "--warmup", "1", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert set(result["step_ms"]) == {"on", "off"}
    assert result["steps_per_block"] == 2
    assert result["ratio"]["median"] > 0
    assert result["share_of_a_step"]["in_the_loop"] > 0
    assert result["share_of_a_step"]["beside_it"] > 0, "the numbers were really written"
    assert "of a step (goal: below 2 %)" in logging.as_text(result)
