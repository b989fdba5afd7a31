"""Drawings in a notebook."""

from __future__ import annotations

import kdflow
from tests.paths import BENCH


def test_a_plan_and_its_graph_show_their_drawing():
    plan = kdflow.compile("fitnet", BENCH)
    assert plan._repr_svg_() == plan.graph._repr_svg_()
    assert plan._repr_svg_().startswith("<svg ")
    assert "hint" in plan._repr_svg_()
