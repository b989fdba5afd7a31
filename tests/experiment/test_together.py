"""Several students on one stream of batches: each ends as it would alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch._subclasses.fake_tensor import FakeTensor

from kdflow.engine.checkpoint import LAST, read
from kdflow.errors import UsageError
from kdflow.experiment.request import RunRequest
from kdflow.experiment.run import RunResult
from kdflow.experiment.together import run_together
from kdflow.graph.runtime import StageCall
from tests.engine.fakes import differences
from tests.paths import BENCH

Tiny = Callable[..., RunResult]
LENGTH = {"recipe.steps": 3, "recipe.accumulate": 2, "recipe.ema": 0.9}


@pytest.fixture
def group(home: Path, any_teacher: None, tmp_path: Path) -> Callable[..., list[RunResult]]:
    def go(requests: Sequence[RunRequest], **options: Any) -> list[RunResult]:
        settings = {"output": tmp_path / "together", "device": "cpu", "notify": lambda _: None, **options}
        return run_together(requests, **settings)

    return go


def request(method: str, **overrides: Any) -> RunRequest:
    return RunRequest(method, BENCH, overrides={**LENGTH, **overrides})


def last(result: RunResult) -> dict[str, Any]:
    """Everything that training changed: weights of student and adapters, optimizer, average, generators."""
    state = read(Path(result.folder) / LAST)
    return {
        key: state[key] for key in ("plan", "optimizer", "scheduler", "average", "random", "step", "life", "prepared")
    }


METHODS = ("baseline", "defeat", "mgd")
"""No teacher; adapters, masks from boxes, the teacher's head on sampled regions; random masks and a generator."""


def test_together_equals_alone_bit_for_bit(
    tiny: Tiny, group: Callable[..., list[RunResult]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()
    forward = StageCall.forward

    def counted(self: StageCall, **inputs: Any) -> dict[str, Any]:
        calls[self.name] += not any(
            isinstance(value, FakeTensor) for value in inputs.values()
        )  # shapes are inferred on these
        return forward(self, **inputs)

    with monkeypatch.context() as patch:
        patch.setattr(StageCall, "forward", counted)
        together = group([request(method) for method in METHODS])
    looks = 2  # each method that distils looks at one batch before its first step
    passes = LENGTH["recipe.steps"] * LENGTH["recipe.accumulate"] + looks
    assert calls["teacher:backbone"] == passes
    for method, result in zip(METHODS, together, strict=True):
        alone = tiny(method, overrides=LENGTH)
        assert result.status == alone.status == "finished"
        assert Path(result.folder).name == Path(alone.folder).name
        assert differences(last(result), last(alone)) == [], method
        assert (result.metrics, result.validation) == (alone.metrics, alone.validation)


def test_unlike_batches_are_refused_with_what_differs(group: Callable[..., list[RunResult]]) -> None:
    with pytest.raises(
        UsageError, match=r"baseline and fitnet cannot be trained together.*recipe\.batch is 2 and 4, seed is 0 and 1"
    ):
        group([request("baseline"), RunRequest("fitnet", BENCH, seed=1, overrides={**LENGTH, "recipe.batch": 4})])


def test_one_run_does_not_stand_twice_in_a_group(group: Callable[..., list[RunResult]]) -> None:
    with pytest.raises(UsageError, match="baseline stands twice in this group"):
        group([request("baseline"), request("baseline")])
