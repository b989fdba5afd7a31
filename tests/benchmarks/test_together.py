"""The harness on the smallest pair; nothing here depends on how long anything takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import together

TINY = str(Path(__file__).parents[1] / "benches" / "tiny.yaml")
SHORT = ["--pair", TINY, "--size", "64", "--rounds", "2", "--warmup", "0", "--steps", "2"]


def test_groups_are_compared_with_students_alone_and_timed(capsys: pytest.CaptureFixture[str]) -> None:
    together.main([*SHORT, "--method", "fitnet", "mgd", "--students", "1", "3", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["identical"] is True
    assert result["largest_difference"] == {"1": 0.0, "3": 0.0}
    assert set(result["cost_per_student"]) == {"1", "3"}
    assert all(cost > 0 for cost in result["cost_per_student"].values())
    assert set(result["step_ms"]) == {"alone 0", "alone 1", "together 1", "together 3"}
    assert "bit for bit equal" in together.as_text(result)


def test_the_cost_is_the_groups_step_per_student_over_its_members_alone() -> None:
    times = {"alone 0": [1.0, 2.0], "alone 1": [3.0, 6.0], "together 4": [4.0, 8.0]}
    assert together.per_student(times, 4, 2).median == pytest.approx(0.5)


def test_a_difference_in_one_bit_or_name_is_seen() -> None:
    one = {"weight": torch.tensor([1.0, 2.0])}
    assert together.difference(one, {"weight": torch.tensor([1.0, 2.0])}) == 0
    assert together.difference(one, {"weight": torch.tensor([1.0, 2.0]).nextafter(torch.tensor(9.0))}) > 0
    assert together.difference(one, {"bias": torch.tensor([1.0, 2.0])}) == float("inf")
    assert together.difference({"weight": torch.tensor([float("nan")])}, {"weight": torch.zeros(1)}) == float("inf")
