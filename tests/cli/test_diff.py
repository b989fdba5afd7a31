"""``kdflow diff``: what two methods have in common and what only one has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

OWN = """kdflow: 1
method: own
wraps: defeat
nodes: {rest: null}
terms:
  neck_objects: {weight: 6, schedule: {warmup: 100}}
  neck_rest: null
  roi_rest: null
  det.loss_objectness: {weight: 0.5}
  det.loss_classifier: {drop: true}
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own.yaml").write_text(OWN)
    return tmp_path / "own.yaml"


def facts_of(found: dict[str, Any], node: str) -> list[dict[str, Any]]:
    return next(entry["pairs"] for entry in found["nodes"] if entry["node"] == node)


def test_a_method_beside_itself_differs_in_nothing(call, tiny) -> None:
    found = json.loads(call("diff", "defeat", "defeat", "--bench", tiny, "--json").out)
    pairs = [pair for entry in found["nodes"] for pair in entry["pairs"]]
    assert len(pairs) == 4
    assert all(pair["a"] == pair["b"] and pair["differs"] == [] for pair in pairs)
    assert found["detector_losses"] == {}


def test_terms_are_paired_by_node_and_the_rest_stands_alone(call, tiny, own) -> None:
    done = call("diff", "defeat", own, "--bench", tiny, "--json")
    assert done.code == 0
    found = json.loads(done.out)
    assert (found["a"]["method"], found["b"]["method"]) == ("defeat", "own")
    paired, alone = facts_of(found, "cnn/neck")
    assert (paired["a"]["term"], paired["b"]["term"]) == ("neck_objects", "neck_objects")
    assert paired["differs"] == ["weight", "schedule"]
    assert (paired["a"]["weight"], paired["b"]["weight"]) == ("3", "6")
    assert (alone["a"]["term"], alone["b"]) == ("neck_rest", None)
    rois = facts_of(found, "cnn/rpn-roi")
    assert [pair["b"] is None for pair in rois] == [False, True]
    assert rois[0]["a"]["teacher"] == "teacher.roi.logits (rewired)"
    assert found["detector_losses"] == {"loss_objectness": ["1", "0.5"], "loss_classifier": ["1", "dropped"]}


def test_methods_of_unlike_form_share_what_they_compare(call, tiny) -> None:
    found = json.loads(call("diff", "fitnet", "cwd", "--bench", tiny, "--json").out)
    (pair,) = facts_of(found, "cnn/neck")
    assert pair["a"]["student"] == pair["b"]["student"] == "student.neck"
    assert "loss" in pair["differs"]
    assert pair["a"]["through"] == "adapter.conv"


def test_text_says_what_is_the_same(call, tiny, own) -> None:
    lines = call("diff", "defeat", own, "--bench", tiny).out.splitlines()
    words = [line.split() for line in lines]
    assert ["cnn/neck"] in words
    assert ["student", "student.neck", "="] in words
    assert ["weight", "3", "6"] in words
    assert ["term", "neck_rest", "-"] in words
    assert ["loss_classifier", "1", "dropped"] in words


def test_without_a_bench_each_method_is_on_its_own(call) -> None:
    found = json.loads(call("diff", "fitnet", "cwd", "--json").out)
    assert found["a"]["bench"] == "shapes-faster-rcnn"
    assert found["b"]["bench"].startswith("shapes-")


def test_a_method_that_does_not_exist_is_named(call) -> None:
    done = call("diff", "fitnet", "fitnot")
    assert done.code == 2
    assert 'no method "fitnot"' in done.err
