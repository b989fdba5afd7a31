"""``kdflow check``: one line per good file, all faults of all others."""

from __future__ import annotations

import json

import pytest

from tests.spec.corpus import FOLDER, expected_of


def test_good_specs_are_one_line_each_with_their_places(call, tiny):
    done = call("check", "defeat", "baseline", "--bench", tiny)
    assert done.code == 0
    first, second = done.out.splitlines()
    assert first.startswith("defeat: good on tiny: kd/neck_objects (cnn/neck)")
    assert second == "baseline: good on tiny: no distillation"


JOINS = """kdflow: 1
method: own
nodes: {aligned: {op: adapter.conv, features: student.neck, like: teacher.neck}}
terms:
  silent: {loss: loss.squared_error, student: aligned, teacher: teacher.neck}
  said: {like: silent, reduce: mean_of_means}
  plain: {like: silent, reduce: sum}
  divided: {like: silent, reduce: {over: [b], floor: 2}}
  one: {like: silent, student: "aligned[0:1]", teacher: "teacher.neck[0:1]"}
"""


def test_levels_that_are_joined_by_default_are_remarked_on(call, tiny, tmp_path):
    """Published losses sum them or average them; a spec that says nothing gets the sum."""
    (tmp_path / "own.yaml").write_text(JOINS)
    done = call("check", tmp_path / "own.yaml", "--bench", tiny)
    assert done.code == 0
    remarks = [line.strip() for line in done.out.splitlines()[1:]]
    reduced = "is reduced in each of 5 levels, which are summed: reduce:"
    assert remarks == [
        f"worth knowing: kd/silent {reduced} sum_of_means says so, mean_of_means averages them",
        f"worth knowing: kd/divided {reduced} levels: sum says so, levels: mean averages them",
    ]


@pytest.mark.parametrize("name", ["op-typo", "yaml-bomb", "python-tag", "channels", "bench-detector"])
def test_broken_spec_is_a_mistake(call, tiny, name):
    path = FOLDER / f"{name}.yaml"
    bench = [] if name.startswith("bench-") else ["--bench", tiny]
    done = call("check", path, *bench)
    assert done.code == 2
    assert "Traceback" not in done.err
    for wanted in expected_of(path):
        assert wanted.text in done.err
        assert f"{path}:{wanted.line}:" in done.err


def test_faults_of_all_files_show_at_once(call, tiny):
    names = [FOLDER / "op-typo.yaml", "defeat", FOLDER / "level-index.yaml"]
    done = call("check", *names, "--bench", tiny)
    assert done.code == 2
    assert "defeat: good" in done.out
    assert "op-typo.yaml:" in done.err
    assert "level-index.yaml:" in done.err
    assert done.err.strip().endswith("2 problems, nothing was run.")


def test_bench_alone(call, tiny):
    done = call("check", "--bench", tiny)
    assert done.code == 0
    assert "good bench: student faster-rcnn (two-stage), teacher faster-rcnn (two-stage)" in done.out


def test_bench_given_as_spec(call, tiny):
    assert call("check", tiny).out == call("check", "--bench", tiny).out


def test_nothing_to_check_is_a_mistake(call):
    done = call("check")
    assert done.code == 2
    assert "name a spec" in done.err


def test_a_set_value_is_checked_too(call, tiny):
    good = call("check", "fitnet", "--bench", tiny, "--set", "terms.hint.weight=2")
    assert good.code == 0, good.err
    for wrong in (
        "terms.hint.weight=heavy",
        "terms.hnt.weight=2",
        "terms.hint.temperatur=2",
        "recipe.stepz=3",
        "weight",
    ):
        done = call("check", "fitnet", "--bench", tiny, "--set", wrong)
        assert done.code == 2, wrong
        assert wrong.partition("=")[0].split(".")[-1] in done.err


def test_json(call, tiny):
    done = call("check", "defeat", FOLDER / "op-typo.yaml", "--bench", tiny, "--json")
    good, bad = json.loads(done.out)
    assert good["terms"]["kd/roi_objects"] == ["cnn/rpn-roi"]
    assert bad["faults"][0]["line"] == expected_of(FOLDER / "op-typo.yaml")[0].line
