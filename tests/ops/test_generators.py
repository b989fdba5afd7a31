"""Blocks that rebuild features, masks by chance, attention, and losses that came with them."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from kdflow.ops.adapters.conv import ConvAdapter
from kdflow.ops.attention.channel import channel
from kdflow.ops.attention.spatial import spatial
from kdflow.ops.generators.context import ContextBlock
from kdflow.ops.generators.rebuild import Rebuild
from kdflow.ops.generators.review import Review
from kdflow.ops.losses.decoupled_kl import decoupled_kl
from kdflow.ops.losses.pooled_squared_error import pooled_squared_error
from kdflow.ops.masks.normalise import normalise
from kdflow.ops.masks.outside import outside
from kdflow.ops.masks.random import random


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_attention_has_mean_one() -> None:
    features = drawn(2, 5, 4, 6)
    torch.testing.assert_close(spatial(features).mean((1, 2, 3)), torch.ones(2))
    torch.testing.assert_close(channel(features).mean(1), torch.ones(2))


def test_a_context_block_starts_as_the_identity() -> None:
    block, features = ContextBlock(), drawn(2, 6, 3, 3)
    block.build(features)
    assert torch.equal(block(features), features)


def test_dropped_places_give_no_gradient() -> None:
    torch.manual_seed(0)
    block, features = Rebuild(), drawn(1, 3, 5, 5).requires_grad_()
    block.build(features)
    mask = torch.ones(1, 1, 5, 5)
    mask[..., 2, 2] = 0
    block(features, mask).square().sum().backward()
    assert features.grad is not None
    assert not features.grad[..., 2, 2].any()
    assert features.grad[..., 0, 0].all()


def test_a_masks_share_of_dropped_places_is_as_asked() -> None:
    torch.manual_seed(0)
    like = [torch.zeros(4, 2, 50, 50)]
    (mask,) = random(like, drop=0.65)
    assert mask.shape == (4, 1, 50, 50)
    assert abs(1 - float(mask.mean()) - 0.65) < 0.02
    assert not random(like, drop=1.0)[0].any()
    assert random(like, drop=0.0)[0].all()


def test_outside_counts_every_image_as_one() -> None:
    mask = torch.zeros(2, 1, 2, 2)
    mask[0, 0, 0] = 0.3
    assert outside(mask)[0, 0].tolist() == [[0, 0], [1, 1]]
    assert normalise(outside(mask)).sum((1, 2, 3)).tolist() == [1, 1]
    assert not normalise(outside(torch.ones(1, 1, 2, 2))).any()


def test_the_coarsest_level_of_a_review_sees_itself_alone() -> None:
    maps = [drawn(2, 3, s, s).requires_grad_() for s in (8, 4, 2)]
    chain = Review(width=4)
    chain.build(maps, maps)
    results = chain(maps, maps)
    results[-1].square().sum().backward(retain_graph=True)
    assert [m.grad is not None for m in maps] == [False, False, True]
    results[0].square().sum().backward()
    assert all(m.grad is not None and m.grad.abs().sum() > 0 for m in maps)


def test_a_constant_offset_costs_its_square_at_every_height() -> None:
    for height in (1, 4, 9):
        features = drawn(2, 3, height, 5)
        torch.testing.assert_close(pooled_squared_error(features + 2, features), torch.tensor(4.0))


def test_four_rows_skip_the_four_by_four_grid() -> None:
    s, t = drawn(1, 2, 4, 6), drawn(1, 2, 4, 6, seed=1)
    parts = [(s - t).square().mean()]
    for side in (2, 1):
        pooled = [functional.adaptive_avg_pool2d(x, side) for x in (s, t)]
        parts.append((pooled[0] - pooled[1]).square().mean())
    torch.testing.assert_close(pooled_squared_error(s, t), (parts[0] + parts[1] / 2 + parts[2] / 4) / 1.75)


def test_the_halves_of_a_divergence_add_up() -> None:
    s, t, labels = drawn(6, 5).double(), drawn(6, 5, seed=1).double(), torch.tensor([0, 1, 2, 3, 4, 4])
    target, others = (decoupled_kl(s, t, labels, part=part) for part in ("target", "others"))
    missing = 1 - t.softmax(1).gather(1, labels[:, None]).squeeze(1)
    whole = functional.kl_div(s.log_softmax(1), t.softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(target + missing * others, whole)


def test_the_others_do_not_see_the_true_class() -> None:
    s, labels = drawn(4, 3).requires_grad_(), torch.tensor([0, 1, 2, 0])
    decoupled_kl(s, drawn(4, 3, seed=1), labels, part="others").sum().backward()
    assert s.grad is not None
    assert not s.grad.gather(1, labels[:, None]).any()


@pytest.mark.parametrize(("widths", "kept"), [((3, 3), True), ((3, 4), False)])
def test_an_adapter_for_unequal_widths_passes_equal_ones_on(widths: tuple[int, int], kept: bool) -> None:
    features, like = drawn(1, widths[0], 2, 2), drawn(1, widths[1], 2, 2)
    adapter = ConvAdapter(kernel=3, norm="batch", when="widths_differ")
    adapter.build(features, like)
    assert (adapter(features, like) is features) == kept
    assert (not list(adapter.parameters())) == kept
