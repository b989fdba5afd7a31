"""``kdflow explain`` in all its forms."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from kdflow.graph.draw import _pruned
from kdflow.graph.plan import PlanReport


@pytest.fixture(scope="module")
def shares():
    from kdflow.cli.explain import teacher_shares
    from kdflow.experiment.reading import read_method
    from kdflow.experiment.setup import prepare
    from tests.cli.conftest import TINY

    return teacher_shares(prepare(read_method("fitnet"), TINY))


def test_teacher_shares_are_parts_of_one_whole(shares):
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["teacher.backbone"] > 0


def test_text_says_what_never_runs(call, tiny):
    done = call("explain", "fitnet", "--bench", tiny)
    assert done.code == 0
    assert "pruned  teacher.rpn.head" in done.out
    assert "of the teacher's operations never run" in done.out
    assert "kd/hint" in done.out


def test_json_is_data(call, tiny, shares):
    facts = json.loads(call("explain", "fitnet", "--bench", tiny, "--json").out)
    pruned = facts["teacher"]["pruned"]
    assert facts["teacher"]["pruned_share_of_flops"] == pytest.approx({"teacher": sum(shares[stage] for stage in pruned)})
    hint = next(term for term in facts["terms"] if term["name"] == "kd/hint")
    assert (hint["node"], hint["nodes"], hint["weight"]) == ("cnn/neck", ["cnn/neck"], 1.0)


def test_two_teachers_have_shares_of_their_own():
    report = PlanReport(teacher_stages_pruned=("large.head", "sharp.head", "sharp.neck"))
    shares = {"large.head": 0.6, "large.neck": 0.4, "sharp.head": 0.7, "sharp.neck": 0.3}
    plan: Any = SimpleNamespace(report=report)
    assert _pruned(plan, shares) == pytest.approx({"large": 0.6, "sharp": 1.0})


def test_how_the_levels_of_a_term_are_joined_is_said(call, tiny):
    for levels, words in (("sum", "summed"), ("mean", "averaged"), ("pooled", "pooled")):
        sets = ("--set", f"terms.hint.reduce.levels={levels}", "--set", "terms.hint.reduce.over=[elements]")
        out = call("explain", "fitnet", "--bench", tiny, *sets).out
        assert f"sum / elements in each of 5 levels, which are {words}" in out


def test_svg_is_a_picture(call, tiny, tmp_path):
    file = tmp_path / "fitnet.svg"
    assert call("explain", "fitnet", "--bench", tiny, "--format", "svg", "-o", file).code == 0
    assert ElementTree.parse(file).getroot().tag.endswith("svg")


@pytest.mark.parametrize(("form", "word"), [("mermaid", "flowchart LR"), ("code", "def forward(self")])
def test_other_forms(call, tiny, form, word):
    assert word in call("explain", "fitnet", "--bench", tiny, "--format", form).out


def test_set_changes_what_is_shown(call, tiny):
    facts = json.loads(
        call("explain", "fitnet", "--bench", tiny, "--format", "json", "--set", "terms.hint.weight=7").out
    )
    assert next(term["weight"] for term in facts["terms"] if term["name"] == "kd/hint") == 7
