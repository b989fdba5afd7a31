"""Properties of the class-weighted and bounded losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdflow.errors import UsageError
from kdflow.functional.box_forms import decode_deltas
from kdflow.ops.losses.cross_entropy import cross_entropy
from kdflow.ops.transforms.encode import encode
from tests.methods.shipped import maps, plan_of, terms_of

DROP = ("nodes.shared", "nodes.sampled", "terms.proposals", "terms.hint", "nodes.aligned", "terms.classes", "nodes.positive",
        "nodes.anchor_errors", "nodes.anchor_error", "nodes.worse_anchors", "terms.bounded_anchors",
        "terms.det.loss_classifier", "terms.det.loss_objectness")


def bounded(ours: Tensor, theirs: Tensor, wanted: Tensor, **changes: Any) -> Tensor:
    given = {"deltas.student": ours, "deltas.teacher": theirs, "wanted": wanted, "student.roi.positive": torch.ones(len(ours))}
    changes = {"terms.bounded.at": "cnn/rpn-roi", **changes}
    return terms_of(plan_of("lekd", given, changes=changes, drop=DROP), "bounded")[0]


def rows() -> tuple[Tensor, Tensor, Tensor]:
    ours, theirs, wanted = (maps((5, 4), seed=seed)[0] for seed in range(3))
    return ours.requires_grad_(), theirs.requires_grad_(), wanted


def test_a_perfect_teacher_leaves_the_whole_error_and_a_bad_one_nothing() -> None:
    ours, theirs, wanted = rows()
    torch.testing.assert_close(bounded(ours, wanted, wanted), (ours - wanted).square().sum(1).mean())
    loss = bounded(ours, theirs.detach() + 1e3, wanted)
    assert float(loss.detach()) == 0
    assert not torch.autograd.grad(loss, ours)[0].any()


def test_the_margin_lets_the_student_be_better_by_so_much() -> None:
    ours, _, wanted = rows()
    worse = wanted + (ours.detach() - wanted) * 1.01
    assert float(bounded(ours, worse, wanted).detach()) == 0
    torch.testing.assert_close(bounded(ours, worse, wanted, **{"nodes.worse.to": -5.0}), (ours - wanted).square().sum(1).mean())


def test_the_teachers_boxes_get_no_gradient() -> None:
    ours, theirs, wanted = rows()
    grads = torch.autograd.grad(bounded(ours, theirs, wanted, **{"nodes.worse.to": -50.0}), [ours, theirs], allow_unused=True)
    assert grads[0].any()
    assert grads[1] is None


def test_at_equality_the_value_is_the_teachers_weighted_entropy() -> None:
    (logits,) = maps((6, 4))
    chances = logits.softmax(1)
    weights = torch.tensor([1.0, 1.0, 1.0, 1.5])
    wanted = -(weights * chances * chances.log()).sum(1)
    torch.testing.assert_close(cross_entropy(logits, logits, background=1.5), wanted)
    torch.testing.assert_close(cross_entropy(logits, logits, weights=(1, 1, 1, 1.5)), wanted)
    rolled = logits.roll(1, 1)
    torch.testing.assert_close(cross_entropy(rolled, rolled, background=1.5, background_at="first"), wanted)


def test_the_gradient_at_equality_vanishes_only_for_equal_weights() -> None:
    (logits,) = maps((6, 4), grad=True)
    (even,) = torch.autograd.grad(cross_entropy(logits, logits.detach()).sum(), logits)
    (uneven,) = torch.autograd.grad(cross_entropy(logits, logits.detach(), background=1.5).sum(), logits)
    assert even.abs().max() < 1e-6
    assert uneven.abs().max() > 1e-3


def test_a_single_logit_is_a_choice_against_a_background_of_zero() -> None:
    (ours,), (theirs,) = maps((6, 1)), maps((6, 1), seed=1)
    target = theirs.sigmoid()
    wanted = -(target * ours.sigmoid().log() + 1.5 * (1 - target) * (1 - ours.sigmoid()).log()).squeeze(1)
    torch.testing.assert_close(cross_entropy(ours, theirs, background=1.5, background_at="implied"), wanted)


def test_a_wrong_number_of_weights_is_refused() -> None:
    (logits,) = maps((6, 4))
    with pytest.raises(UsageError, match="3 numbers for 4 classes"):
        cross_entropy(logits, logits, weights=(1, 2, 3))


def test_decoding_undoes_encoding() -> None:
    boxes = torch.tensor([[4.0, 5.0, 20.0, 45.0], [0.0, 0.0, 9.0, 9.0]])
    targets = torch.tensor([[6.0, 1.0, 30.0, 40.0], [3.0, 2.0, 8.0, 30.0]])
    deltas = encode([boxes[:1], boxes[1:]], [targets[:1], targets[1:]])
    torch.testing.assert_close(decode_deltas(deltas, boxes, (10, 10, 5, 5)), targets)
    with pytest.raises(UsageError, match="one target for each box"):
        encode([boxes], [targets[:1]])
