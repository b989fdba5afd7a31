"""What makes steps faster must not change what is learned: the losses of the first steps against those of plain float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from kdflow.events import RunStarted, Silent, StepEvent
from kdflow.experiment.run import RunResult

Tiny = Callable[..., RunResult]
STEPS = 3
DENSE = {"kd/hint", "det/loss_objectness", "det/loss_rpn_box_reg"}
ALL = DENSE | {"det/loss_classifier", "det/loss_box_reg"}
"""The box head's losses are of sampled proposals, and rounding decides which are sampled."""


class Losses(Silent):
    """Keeps every raw loss of every step of the student."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def step_ended(self, event: StepEvent) -> None:
        if "kd/hint" in event.raw:
            self.seen.append({name: float(value) for name, value in event.raw.items()})


def losses(tiny: Tiny, **options: Any) -> list[dict[str, float]]:
    kept = Losses()
    overrides = {"recipe.log_every": 1, "recipe.optimizer.lr": 1e-4, **options.pop("overrides", {})}
    tiny("fitnet", steps=STEPS, hooks=[kept], overrides=overrides, **options)
    assert len(kept.seen) == STEPS
    return kept.seen


@pytest.mark.parametrize(
    ("fast", "names", "rtol"),
    [
        ({"overrides": {"recipe.channels_last": True}}, ALL, 1e-3),
        ({"overrides": {"recipe.optimizer.fused": True}}, ALL, 1e-3),
        ({"fast": True}, ALL, 1e-3),
        ({"precision": "bf16"}, DENSE, 2e-2),
    ],
    ids=["channels_last", "fused", "fast", "bf16"],
)
def test_faster_steps_compute_the_same_losses(
    fast: dict[str, Any], names: set[str], rtol: float, tiny: Tiny, any_teacher: None
) -> None:
    plain, found = losses(tiny), losses(tiny, **fast)
    for expected, own in zip(plain, found):
        assert expected.keys() == ALL
        assert {name: own[name] for name in names} == pytest.approx({name: expected[name] for name in names}, rel=rtol, abs=rtol)


def test_channels_last_reaches_the_maps_of_both_detectors(
    tiny: Tiny, any_teacher: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[int, bool]] = set()
    original = nn.Conv2d.forward

    def looked_at(self: nn.Conv2d, maps: torch.Tensor) -> torch.Tensor:
        if self.kernel_size == (3, 3) and maps.shape[-1] > 1:
            innermost = all(x.is_contiguous(memory_format=torch.channels_last) for x in (maps, self.weight))
            seen.add((self.out_channels, innermost))
        return original(self, maps)

    class OneStep(Silent):
        def run_started(self, event: RunStarted) -> None:
            monkeypatch.setattr(nn.Conv2d, "forward", looked_at)

        def step_ended(self, event: StepEvent) -> None:
            monkeypatch.setattr(nn.Conv2d, "forward", original)

    losses(tiny)  # the teacher is there from now on
    tiny("fitnet", hooks=[OneStep()], overrides={"recipe.channels_last": True, "recipe.log_every": 1})
    assert {(16, True), (32, True)} <= seen, "the necks of the student (16 channels) and of the teacher (32)"
    assert all(innermost for _, innermost in seen)
