"""Queries that only fill up an image's set: whatever they hold, they change nothing for the real ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kdflow.errors import UsageError
from tests.detectors import hf_tiny
from tests.detectors.staging import run_stages

MASKING = ("detr", "conditional-detr", "dab-detr", "deformable-detr", "rt-detr", "d-fine")


def decoded(detector: Any, values: dict[str, Any], queries: dict[str, torch.Tensor]) -> torch.Tensor:
    stage = next(stage for stage in detector.stages.values() if "decoder.states" in (port.name for _, port in stage.ports))
    ports = {**values, "decoder.queries": queries}
    found = stage.run(**{argument: ports.get(port) for argument, port in stage.reads.items()})
    return torch.stack(list(found["states"]))


@pytest.mark.parametrize("name", MASKING)
def test_real_queries_do_not_see_the_others(name: str) -> None:
    detector = hf_tiny.build(name)
    detector.model.eval()
    with torch.no_grad():
        values = run_stages(detector, hf_tiny.make_batch())
        own = {key: value.clone() for key, value in values["decoder.queries"].items()}
        count = next(iter(own.values())).shape[1]
        real = torch.ones(2, count)
        real[0, 2:] = 0
        real[1] = 0
        other = {key: torch.where(_like(real, value) > 0, value, torch.rand_like(value)) for key, value in own.items()}
        hidden, moved = (decoded(detector, values, {**queries, "real": real}) for queries in (own, other))
        seen, changed = (decoded(detector, values, queries) for queries in (own, other))
        alone = decoded(detector, values, {key: value[:, :2] for key, value in own.items()})
    torch.testing.assert_close(hidden[:, 0, :2], moved[:, 0, :2], rtol=0, atol=0)
    torch.testing.assert_close(hidden[:, 0, :2], alone[:, 0])
    assert not torch.allclose(seen[:, 0, :2], changed[:, 0, :2])
    assert torch.isfinite(hidden).all()                              # an image without any real query


def _like(real: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return real[..., None].expand_as(value)


def test_all_real_is_the_same_as_saying_nothing() -> None:
    detector = hf_tiny.build("deformable-detr")
    detector.model.eval()
    with torch.no_grad():
        values = run_stages(detector, hf_tiny.make_batch())
        own = values["decoder.queries"]
        real = torch.ones(own["content"].shape[:2])
        torch.testing.assert_close(decoded(detector, values, {**own, "real": real}), decoded(detector, values, own))


def test_hidden_queries_stay_hidden_beside_denoising_ones() -> None:
    detector = hf_tiny.build("rt-detr", denoising=4)
    detector.model.train()
    with torch.no_grad():
        values = run_stages(detector, hf_tiny.make_batch(counts=(2, 1)))
        assert values["denoising.noise"] is not None
        own = values["decoder.queries"]
        real = torch.ones(own["content"].shape[:2])
        real[:, 2:] = 0
        other = {key: torch.where(_like(real, value) > 0, value, torch.rand_like(value)) for key, value in own.items()}
        hidden, moved = (decoded(detector, values, {**queries, "real": real}) for queries in (own, other))
    assert hidden[:, :, :2].equal(moved[:, :, :2])


def test_a_decoder_without_such_a_mask_says_so() -> None:
    detector = hf_tiny.build("lw-detr")
    detector.model.eval()
    values = run_stages(detector, hf_tiny.make_batch())
    own = values["decoder.queries"]
    with pytest.raises(UsageError, match="cannot hide queries"):
        decoded(detector, values, {**own, "real": torch.ones(own["content"].shape[:2])})
