"""Properties of the distillers that DetKDS found."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from kdflow.experiment.reading import read_method
from kdflow.experiment.setup import prepare
from kdflow.experiment.shelf import Shelf
from kdflow.ops.transforms.patches import patches
from kdflow.ops.transforms.pool import pool
from tests.methods.shipped import maps, plan_of, terms_of

SHAPES = ((2, 3, 8, 6), (2, 3, 5, 3))
STRIDES = {f"{side}.neck": (8, 16) for side in ("student", "teacher")}
BOXES = [torch.tensor([[4.0, 4, 40, 50]]), torch.zeros(0, 4)]


def values(ours: list[Tensor], theirs: list[Tensor]) -> list[Tensor]:
    given = {"student.neck": ours, "teacher.neck": theirs, "targets.boxes": BOXES, "image_sizes": [(64, 48)] * 2}
    return terms_of(plan_of("detkds", given, family="dense", strides=STRIDES), "global", "objects", "rest")


def test_equality_gives_zero() -> None:
    assert [float(v.detach()) for v in values(maps(*SHAPES), maps(*SHAPES))] == pytest.approx([0, 0, 0], abs=1e-6)


def test_one_image_scaled_on_both_sides_is_seen_over_the_batch_alone() -> None:
    ours, theirs = maps(*SHAPES), maps(*SHAPES, seed=1)
    before = values(ours, theirs)
    for level in [*ours, *theirs]:
        level[0] *= 3
    after = values(ours, theirs)
    assert abs(float(before[0] - after[0])) > 1e-3
    torch.testing.assert_close(after[1:], before[1:])


def test_one_image_alone_gives_no_gradient_over_the_batch() -> None:
    (ours,), (theirs,) = maps((1, 3, 6, 6), grad=True), maps((1, 3, 6, 6), seed=1)
    given = {"student.neck": [ours], "teacher.neck": [theirs], "targets.boxes": BOXES[:1], "image_sizes": [(48, 48)]}
    strides = dict.fromkeys(STRIDES, (8,))
    (loss,) = terms_of(plan_of("detkds", given, family="dense", strides=strides), "global")
    assert float(torch.autograd.grad(loss, ours)[0].abs().max()) < 1e-6


def test_pools_and_patches_pad_with_zeros_at_the_end() -> None:
    features = -torch.arange(1.0, 16).view(1, 1, 3, 5)
    assert pool(features).tolist() == [[[[-1, -3, 0], [0, 0, 0]]]]
    assert pool(features, how="mean")[0, 0, 0].tolist() == [-4, -6, -3.75]
    cut = patches(features, size=3)
    assert cut.shape == (1, 2, 3, 3)
    assert cut[0, 0].tolist() == features[0, 0, :, :3].tolist()
    assert cut[0, 1, 0].tolist() == [-4, -5, 0]


def test_every_operation_of_its_space_compiles() -> None:
    spec, shelf = read_method("detkds"), Shelf()
    space = {path: entry.choices for path, entry in spec.resolve().search.items() if entry.choices}
    assert {"nodes.whole", "terms.global.loss"} <= space.keys()
    for path, choices in space.items():
        found = [prepare(spec, overrides={path: choice}, shelf=shelf).method.model_dump() for choice in choices]
        assert all(one != other for one, other in pairwise(found)), path
