"""Properties of TARD."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdflow.ops.masks.boxes import boxes_mask
from kdflow.spec.schedule import Progress, decay
from tests.methods.shipped import maps, plan_of, terms_of

STRIDES = (4, 8)
PLACES = [torch.tensor([[10.0, 10, 30, 40], [2.0, 2, 12, 12]]), torch.tensor([[20.0, 4, 40, 24]])]
TRUTH = [torch.tensor([[12.0, 12, 32, 42], [2.0, 2, 10, 10]]), torch.tensor([[18.0, 4, 38, 24]])]
LABELS = torch.tensor([0, 2, 1])          # of two classes; 2 is the background


def neck(seed: int = 0, grad: bool = False) -> list[Tensor]:
    return maps((2, 3, 12, 12), (2, 3, 6, 6), seed=seed, grad=grad)


def values(**changes: Any) -> dict[str, Any]:
    logits, deltas = maps((3, 3), (3, 12), seed=2)
    return {
        "student.neck": neck(), "teacher.neck": neck(1), "targets.boxes": TRUTH, "images": torch.zeros(2, 3, 48, 48),
        "student.roi.boxes": PLACES, "student.roi.matched_boxes": TRUTH, "student.roi.labels": LABELS,
        "student.roi.positive": LABELS < 2, "student.roi.logits": logits, "student.roi.deltas": deltas,
        "shared.logits": logits.flip(1), "shared.deltas": deltas + 1, "shared.decoded": torch.cat(TRUTH).repeat(1, 3),
        **changes,
    }


def term(name: str, given: dict[str, Any], **options: Any) -> Tensor:
    strides = {"student.neck": STRIDES, "teacher.neck": STRIDES}
    return terms_of(plan_of("tard", given, strides=strides, **options), name)[0]


def test_the_mask_is_one_in_the_middle_only_and_zero_outside() -> None:
    like = [torch.zeros(1, 1, 12, 12)]
    box = torch.tensor([[8.0, 8, 24, 32]])                       # columns 2..5, rows 2..7
    (mask,) = boxes_mask(like, [box], spread=2.0, strides=(4,))
    assert (mask == 1).nonzero().tolist() == [[0, 0, 5, 4]]
    assert (mask[0, 0, 2:8, 2:6] > 0).all()
    assert mask.count_nonzero() == 24
    torch.testing.assert_close(mask[0, 0, 5, 2], torch.tensor(-0.5).exp())


def test_overlapping_boxes_keep_the_larger_value_and_collapsed_boxes_one_cell() -> None:
    like = [torch.zeros(1, 1, 12, 12)]
    box = torch.tensor([[8.0, 8, 24, 32], [9.0, 9, 10, 30]])
    once, twice = (boxes_mask(like, [b], spread=2.0, strides=(4,))[0] for b in (box, box.repeat(2, 1)))
    torch.testing.assert_close(once, twice)
    alone = boxes_mask(like, [box[1:]], spread=2.0, strides=(4,))[0]
    assert alone.nonzero().tolist() == [[0, 0, 2, 2]]
    assert alone.max() == 1


def test_nothing_to_judge_gives_zero_and_finite_gradients() -> None:
    empty = [torch.zeros(0, 4)] * 2
    ours = neck(grad=True)
    feature = term("feature", values(**{"student.neck": ours, "targets.boxes": empty}))
    assert not feature.detach()
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(feature, ours))
    background = {"student.roi.labels": torch.full((3,), 2), "student.roi.positive": torch.zeros(3) > 0}
    for name, port in (("classes", "student.roi.logits"), ("boxes", "student.roi.deltas")):
        leaf = maps((3, 3) if name == "classes" else (3, 12), grad=True)[0]
        value = term(name, values(**background, **{port: leaf}))
        assert not value.detach()
        assert not torch.autograd.grad(value, leaf)[0].any()


def test_a_teacher_that_makes_all_proposals_worse_teaches_no_boxes() -> None:
    (leaf,) = maps((3, 12), grad=True)
    given = values(**{"student.roi.deltas": leaf, "shared.decoded": torch.zeros(3, 12)})
    value = term("boxes", given)
    assert not value.detach()
    assert not torch.autograd.grad(value, leaf)[0].any()


def test_only_positive_rows_that_the_teacher_improves_are_compared() -> None:
    given = values()
    torch.testing.assert_close(term("boxes", given), torch.tensor(4.0))
    worse = torch.cat(TRUTH).repeat(1, 3)
    worse[0] = 0
    assert term("boxes", given | {"shared.decoded": worse}) == pytest.approx(4.0)


def test_equal_models_leave_the_entropy_of_the_teacher_without_gradient() -> None:
    (logits,) = maps((3, 3), seed=2, grad=True)
    given = values(**{"student.roi.logits": logits, "shared.logits": logits.detach().clone(), "teacher.neck": neck()})
    value = term("classes", given)
    p = logits.detach().softmax(1)[LABELS < 2]
    entropy = -(p * p.log() + (1 - p) * (1 - p).log()).mean()
    torch.testing.assert_close(value, entropy)
    torch.testing.assert_close(torch.autograd.grad(value, logits)[0], torch.zeros(3, 3), atol=1e-7, rtol=0)
    assert term("feature", given, changes={"nodes.aligned.init": "identity"}) == 0
    same = given | {"shared.deltas": given["student.roi.deltas"]}
    assert term("boxes", same) == 0


def test_background_rows_get_no_gradient() -> None:
    (logits,) = maps((3, 3), grad=True)
    (grad,) = torch.autograd.grad(term("classes", values(**{"student.roi.logits": logits})), logits)
    assert not grad[1].any()
    assert grad[0].any()


def test_the_weight_falls_to_one_over_the_number_of_epochs() -> None:
    factors = [decay(Progress(epoch, 12, 1)) for epoch in range(12)]
    assert factors[0] == 1
    assert factors[-1] == pytest.approx(1 / 12)
    assert factors == sorted(factors, reverse=True)
    plan = plan_of("tard", values(), strides={"student.neck": STRIDES, "teacher.neck": STRIDES})
    plan.advance(6, 12, 1)
    raw = plan.evaluate({}, ["kd/feature"])
    torch.testing.assert_close(plan.weigh(raw)["kd/feature"], 1.5 * raw["kd/feature"])
