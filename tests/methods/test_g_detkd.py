"""Properties of G-DetKD."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kdflow.errors import UsageError
from kdflow.ops.attention.levels import LevelAttention
from kdflow.ops.losses.contrastive import contrastive
from kdflow.ops.regions.mean_of_class import mean_of_class
from kdflow.ops.regions.pool import pool
from kdflow.ops.regions.pool_every import pool_every
from kdflow.ops.taps.recent import Recent
from tests.methods.shipped import maps, plan_of, terms_of

BOXES = [torch.tensor([[0.0, 0, 20, 20], [2.0, 0, 20, 20]]), torch.tensor([[0.0, 0, 20, 20], [30.0, 30, 50, 50]])]


def fusing(levels: int) -> tuple[LevelAttention, list[Tensor], Tensor]:
    torch.manual_seed(0)
    blocks, (theirs,) = maps(*[(4, 3, 7, 7)] * levels), maps((4, 5, 7, 7), seed=1)
    module = LevelAttention(hidden=6, width=4)
    module.build(blocks, theirs)
    return module, blocks, theirs


def test_one_level_is_taken_as_it_is() -> None:
    module, blocks, theirs = fusing(1)
    fused = module(blocks, theirs)
    torch.testing.assert_close(fused["weights"], torch.ones(4, 1))
    torch.testing.assert_close(fused["blocks"], module.adapter(blocks[0]))


def test_weights_add_up_over_levels_whatever_their_order() -> None:
    module, blocks, theirs = fusing(3)
    fused, turned = module(blocks, theirs), module(blocks[::-1], theirs)
    torch.testing.assert_close(fused["weights"].sum(1), torch.ones(4))
    torch.testing.assert_close(turned["weights"].flip(1), fused["weights"])
    torch.testing.assert_close(turned["blocks"], fused["blocks"])


def plan_values(**given: Any) -> dict[str, Any]:
    (seen, theirs), (ours, shared) = maps((4, 8), (4, 8)), maps((4, 8), (4, 8), seed=2)
    scores, judged = maps((4, 3), (4, 3), seed=3)
    blocks = maps((4, 3, 7, 7), (4, 3, 7, 7), (4, 3, 7, 7), seed=4)
    return {
        "seen": seen, "shared.embedding": theirs, "student.roi.boxes": BOXES, "student.roi.deltas": ours,
        "shared.deltas": shared, "student.roi.logits": scores, "shared.logits": judged, "memory": torch.zeros(5, 8),
        "everywhere": blocks[:2], "theirs": blocks[2], **given,
    }


def term(name: str, **given: Any) -> Tensor:
    changes = {"terms.feature.at": "cnn/neck", "terms.contrast.at": "cnn/rpn-roi"}
    return terms_of(plan_of("g-detkd", plan_values(**given), drop=("nodes.shared",), changes=changes), name)[0]


def test_the_contrast_of_equal_rows_counts_the_rivals() -> None:
    same = torch.ones(4, 8)
    memory = torch.cat([torch.ones(2, 8), torch.zeros(3, 8)])
    wanted = (2 * math.log(1 + 2 + 2) + 2 * math.log(1 + 3 + 2)) / 4         # overlapping boxes are no rivals
    value = term("contrast", seen=same, memory=memory, **{"shared.embedding": same})
    torch.testing.assert_close(value, torch.tensor(wanted))


def test_the_contrast_vanishes_for_found_partners_and_sees_no_lengths() -> None:
    eye = torch.eye(4, 8)
    assert term("contrast", seen=eye, **{"shared.embedding": eye}) < 1e-5
    given = plan_values()
    longer = {"seen": given["seen"] * 3, "shared.embedding": given["shared.embedding"] * torch.tensor([[1.0], [2], [3], [4]])}
    torch.testing.assert_close(term("contrast", **longer), term("contrast"))
    assert term("contrast") >= 0


def test_overlapping_boxes_are_no_rivals() -> None:
    ours, theirs = maps((4, 8), (4, 8))
    rivals = torch.ones(4, 4)
    rivals[0, 1] = 0
    other = theirs.clone()
    other[1] += 5
    before, after = (contrastive(ours, t, rivals, anchor="student") for t in (theirs, other))
    torch.testing.assert_close(before[0], after[0])
    assert before[2] != after[2]
    with pytest.raises(UsageError, match="rivals are"):
        contrastive(ours, theirs, rivals[:2])


def test_the_partner_may_be_left_out_of_the_sum() -> None:
    ours, theirs = maps((3, 8), (3, 8))
    table = torch.cosine_similarity(ours[:, None], theirs[None], dim=-1) / 0.5
    own = table.diagonal()
    wanted = (table.exp().sum(1) - own.exp()).log() - own
    torch.testing.assert_close(contrastive(ours, theirs, temperature=0.5, anchor="student", positive="left_out"), wanted)
    assert contrastive(ours[:1], theirs[:1], positive="left_out").tolist() == [0]


def test_boxes_agree_where_the_teacher_believes() -> None:
    logits = torch.full((4, 3), -40.0)
    logits[:, 0] = 40
    (ours,) = maps((4, 8), seed=5)
    theirs = ours.clone()
    theirs[:, 4:] += 3                                                         # deltas of class 1, which it rules out
    given = {"student.roi.deltas": ours, "shared.deltas": theirs, "shared.logits": logits}
    assert term("boxes", **given) < 1e-6
    assert term("boxes", **{**given, "shared.logits": -logits}) > 1
    with pytest.raises(UsageError, match="8 columns"):
        mean_of_class(ours, torch.ones(4, 4))


def test_the_memory_holds_the_latest_rows() -> None:
    memory = Recent(count=3)
    first, second = torch.full((2, 1), 1.0), torch.full((2, 1), 2.0)
    memory.build(first)
    assert memory(first).tolist() == [[0], [0], [0]]
    assert memory(second).tolist() == [[1], [1], [0]]
    memory.eval()
    assert memory(first).tolist() == memory(first).tolist() == [[2], [1], [2]]
    again = Recent(count=3)
    again.build(first)
    again.load_state_dict(memory.state_dict())
    assert again(first).tolist() == [[2], [1], [2]]


def test_every_box_is_read_on_every_level() -> None:
    levels = maps((2, 3, 16, 16), (2, 3, 8, 8))
    every = pool_every(levels, BOXES, bins=2, strides=(4, 8))
    assert [tuple(level.shape) for level in every] == [(4, 3, 2, 2)] * 2
    for index, stride in enumerate((4, 8)):
        alone = pool(levels[index : index + 1], BOXES, bins=2, strides=(stride,))
        torch.testing.assert_close(every[index], alone)
    with pytest.raises(UsageError, match="stride of each of the 2 levels"):
        pool_every(levels, BOXES)
