"""Anchors fitted to boxes."""

from __future__ import annotations

import numpy as np
import pytest

from kdflow.data.anchors import fit_anchors, mean_best

STRIDES = (8, 16, 32)
OWN = ((32.0, 40.0), (64.0, 80.0), (128.0, 160.0))


def test_the_fit_of_a_box_that_is_an_anchor_is_one_but_for_the_grid():
    sides = np.array([[32.0, 32.0]])
    assert mean_best(sides, np.ones(1), (8,), ((32.0,),), (1.0,)) == pytest.approx(30**2 / (2 * 32**2 - 30**2))


def test_small_tall_boxes_get_small_tall_anchors():
    sides = np.array([[20.0, 80.0], [22.0, 90.0], [24.0, 90.0], [18.0, 70.0]])
    best, own = fit_anchors(sides, np.ones(4), STRIDES, OWN, (0.5, 1.0, 2.0))
    assert own.sizes == OWN
    assert best.fit > own.fit + 0.1
    assert min(best.ratios) > 2
    assert best.ratios != (0.5, 1.0, 2.0)
    assert [level[0] / best.sizes[0][0] for level in best.sizes] == pytest.approx([1, 2, 4], rel=0.1)


def test_large_anchors_stay_on_coarse_levels():
    sides = np.full((5, 2), 200.0)
    best, _ = fit_anchors(sides, np.ones(5), STRIDES, OWN, (1.0,))
    assert best.sizes[0][0] < best.sizes[1][0] < best.sizes[2][0]
    assert best.fit > 0.9


def test_weights_decide_between_groups_of_boxes():
    sides = np.array([[20.0, 20.0], [300.0, 300.0]])
    small, large = (
        fit_anchors(sides, np.array(weights), (8,), ((32.0,),), (1.0,))[0].sizes[0][0]
        for weights in ([9.0, 1.0], [1.0, 99.0])
    )
    assert small < 30
    assert large == 128  # the largest scale that is tried
