"""``kdflow probe``: what is said of a method before it is trained."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def prepared(home, any_teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("KDFLOW_RUNS", str(tmp_path / "runs"))


def test_command_says_pulls_sides_and_findings(call, tiny, prepared):
    done = call("probe", "fitnet", "--bench", tiny, "--device", "cpu", "--batches", 2)
    assert done.code == 0, done.err
    assert "kd/hint" in done.out
    assert "weight for 1 x" in done.out
    assert "root mean squares" in done.out
    assert "no node is dead, saturated or collapsed" in done.out


def test_a_weight_for_one_time_is_what_a_share_of_a_half_gives(call, tiny, prepared):
    """The command looks at the batches that calibration looks at."""
    told = json.loads(call("probe", "fitnet", "--bench", tiny, "--device", "cpu", "--json").out)
    pull = told["pulls"]["kd/hint"]
    done = call("run", "fitnet", "--bench", tiny, "--device", "cpu", "--calibrate")
    assert done.code == 0, done.err
    said = next(line for line in done.err.splitlines() if "kd/hint: weight" in line)
    assert "calibrated on 8 batches: 1 x as hard" in said
    assert float(said.split("weight ")[1].split(",")[0]) == pytest.approx(pull["weight"] / pull["pull"], rel=1e-3)


def test_collapsed_nodes_are_told_when_a_run_begins(call, tiny, prepared, tmp_path):
    spec = tmp_path / "sharp.yaml"
    spec.write_text("""
kdflow: 1
method: sharp
nodes:
  wider: {op: adapter.conv, features: student.neck, like: teacher.neck}
terms:
  neck: {loss: loss.kl, over: [y, x], student: wider, teacher: teacher.neck, temperature: 1.0e-5,
    reduce: {over: [b], levels: sum}}
""")
    done = call("run", spec, "--bench", tiny, "--device", "cpu")
    told = [line for line in done.err.splitlines() if "collapsed:" in line]
    assert len(told) == 1
    assert told[0].startswith("neck.loss (loss.kl per level): collapsed: the teacher's softmax over places lies")
