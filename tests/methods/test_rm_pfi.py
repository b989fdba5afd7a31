"""Properties of rank mimicking and prediction-guided imitation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdflow.errors import UsageError
from kdflow.ops.losses.kl import kl
from kdflow.ops.regions.object_of import object_of
from kdflow.ops.regions.of_class import of_class
from tests.methods.shipped import maps

GROUPS = torch.tensor([[0, 0, 0, -1, 1], [1, 1, -1, 0, 2]])


def scores(seed: int = 0) -> Tensor:
    return maps((2, 5, 1), seed=seed)[0].requires_grad_(seed == 0)


def group_kl(student: Tensor, teacher: Tensor, groups: Tensor) -> Tensor:
    return kl(student, teacher, groups, over=("r",), axes=("b", "r", "c"))


def test_each_group_is_one_divergence() -> None:
    ours, theirs = scores(), scores(1)
    result = group_kl(ours, theirs, GROUPS)
    t, s = (side[0, :3, 0].log_softmax(0) for side in (theirs, ours))
    torch.testing.assert_close(result[0, :3].sum(), (t.exp() * (t - s)).sum())
    assert float(result[0, 3:].abs().sum().detach()) == 0  # no group, and a group of one
    assert float(result[1, 2:].abs().sum().detach()) == 0


def test_groups_of_two_images_do_not_mix() -> None:
    ours, theirs = scores(), scores(1)
    alone = torch.cat([group_kl(ours[i : i + 1], theirs[i : i + 1], GROUPS[i : i + 1]) for i in (0, 1)])
    torch.testing.assert_close(group_kl(ours, theirs, GROUPS), alone)


def test_a_constant_more_for_a_whole_group_and_other_places_change_nothing() -> None:
    ours, theirs = scores(), scores(1)
    moved = ours.detach().clone()
    moved[0, :3] += 7.0
    moved[0, 3] -= 3.0
    torch.testing.assert_close(group_kl(moved, theirs, GROUPS), group_kl(ours, theirs, GROUPS).detach(), atol=1e-5, rtol=1e-4)


def test_a_permutation_of_the_teachers_scores_is_another_ranking() -> None:
    theirs = scores(1)
    ours = theirs.clone()
    ours[0, :3] = theirs[0, [1, 2, 0]]
    assert float(group_kl(ours, theirs, GROUPS).sum()) > 1e-2


def test_large_scores_stay_finite() -> None:
    ours = torch.full((1, 3, 1), 1e4).requires_grad_()
    loss = group_kl(ours, torch.tensor([[[-1e4], [0.0], [1e4]]]), torch.zeros(1, 3)).sum()
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, ours)[0]).all()


def test_places_know_their_object_by_its_box() -> None:
    targets = [torch.tensor([[0.0, 0, 4, 4], [2.0, 2, 9, 9]]), torch.zeros(0, 4)]
    matched = torch.stack([targets[0][[1, 0, 0]], torch.zeros(3, 4)])
    keep = torch.tensor([[1, 1, 0], [0, 0, 0]])
    assert object_of(matched, keep, targets).tolist() == [[1, 0, -1], [-1, -1, -1]]


def test_the_own_class_of_places_and_nothing_for_the_background() -> None:
    (logits,) = maps((2, 3, 4))
    labels = torch.tensor([[0, 3, 4], [-1, 2, 1]])
    result = of_class(logits, labels, block=1)
    assert result.shape == (2, 3, 1)
    wanted = [[logits[0, 0, 0], logits[0, 1, 3], 0.0], [0.0, logits[1, 1, 2], logits[1, 2, 1]]]
    torch.testing.assert_close(result.squeeze(2), torch.tensor(wanted))
    with pytest.raises(UsageError, match="one label for each"):
        of_class(logits, labels[:, :2], block=1)
