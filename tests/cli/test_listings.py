"""What can be listed, and that each listing has a form for programs."""

from __future__ import annotations

import json

import pytest

LISTINGS = ("methods", "taxonomy", "ops mask.*", "detectors", "benches", "kinds", "schedules", "results --published")


@pytest.mark.parametrize("words", LISTINGS)
def test_every_listing_has_json(call, words, monkeypatch, tmp_path):
    monkeypatch.setenv("KDFLOW_RUNS", str(tmp_path))
    done = call(*words.split(), "--json")
    assert done.code == 0
    assert json.loads(done.out)


def test_kinds_and_schedules_say_what_they_mean(call):
    from kdflow.kinds import AXES, KINDS

    shown = call("kinds").out
    assert "cell_values   bxr" in shown
    assert {axis for kind in KINDS.values() for axis in kind.axes or ()} == set(AXES)
    assert "decay" in call("schedules").out


def test_one_op_in_full(call):
    out = call("ops", "mask.boxes").out
    assert out.startswith("mask.boxes(like: pyramid, boxes?: boxes; assign = by_area")
    assert "= targets.boxes" in out
    assert "by_area | every | finest" in out
    assert "strides" not in out.partition("gives")[0].partition("options")[2]


def test_unknown_op_lists_close_ones(call):
    done = call("ops", "mask.boxs")
    assert done.code == 2
    assert 'Did you mean "mask.boxes"' in done.err


def test_ops_of_a_plugin(call, tmp_path):
    file = tmp_path / "cli_listing_op.py"
    file.write_text(
        "from __future__ import annotations\n"
        "from kdflow.kinds import AnyTensor\nfrom kdflow.operation import like, op\n"
        "@op('loss.cli_listing', gives=like('student'))\n"
        "def loss(student: AnyTensor, teacher: AnyTensor) -> AnyTensor:\n    '''Mine.'''\n    return student - teacher\n"
    )
    assert "Mine." in call("ops", "loss.cli_listing", "--plugin", file).out


def test_one_detector_in_full(call):
    facts = json.loads(
        call(
            "detectors",
            "faster-rcnn",
            "--set",
            "backbone=timm:test_resnet",
            "--set",
            "neck=16",
            "--size",
            "64",
            "--json",
        ).out
    )
    ports = {port["name"]: port for port in facts["ports"]}
    assert ports["neck"]["shape"].startswith("[(2, 16, 16, 16), (2, 16, 8, 8)")
    assert ports["neck"]["node"] == "cnn/neck"
    assert ports["roi.logits"]["form"] == "softmax"
    assert "roi" in [called["name"] for called in facts["calls"]]
    assert {"name": "neck", "type": "whole number above 0"}.items() <= next(
        o for o in facts["options"] if o["name"] == "neck"
    ).items()


def test_detector_for_people(call):
    out = call("detectors", "faster-rcnn", "--set", "backbone=timm:test_resnet", "--size", "64").out
    assert "ports (shapes for two images of 64 x 64)" in out
    assert "``" not in out


@pytest.mark.parametrize("words", [["faster-rcn"], ["faster-rcnn", "--set", "backbon=resnet18"]])
def test_wrong_detector_or_option(call, words):
    done = call("detectors", *words)
    assert done.code == 2
    assert "Did you mean" in done.err


def test_taxonomy_marks_what_kdflow_runs(call):
    out = call("taxonomy", "--long").out
    assert "cnn/neck  Neck" in out
    assert "defeat*" in out
    assert "P2 to P7" in out


def test_methods_say_where_they_act():
    from kdflow.cli.methods import shipped

    methods = {method["method"]: method for method in shipped()}
    assert methods["defeat"]["nodes"] == ["cnn/neck", "cnn/backbone", "cnn/rpn-roi"]
    assert methods["baseline"]["nodes"] == []
    assert all(method["nodes"] for name, method in methods.items() if name != "baseline")


def test_doctor_finds_this_place_sound(call, monkeypatch, tmp_path):
    monkeypatch.setenv("KDFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KDFLOW_RUNS", str(tmp_path / "runs"))
    done = call("doctor", "--json")
    findings = {finding["what"]: finding for finding in json.loads(done.out)}
    assert done.code == 0
    assert findings["torch"]["verdict"] == "good"
    assert str(tmp_path / "runs") in findings["runs"]["words"]
    assert not (tmp_path / "runs").exists(), "looking leaves nothing behind"


def test_doctor_says_what_is_bad(call, monkeypatch, tmp_path):
    broken = tmp_path / "mlflow.db"
    broken.write_text("this is no database")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{broken}")
    done = call("doctor")
    assert done.code == 1
    assert "bad" in done.out


def test_a_detector_that_needs_options_is_shown_with_their_texts(call):
    done = call("detectors", "module")
    assert done.code == 0
    assert "Function that makes the module" in done.out
    assert "those that its options say" in done.out


def test_detectors_for_programs_name_family_ports_library_and_licence(call):
    found = {one["name"]: one for one in json.loads(call("detectors", "--json").out)}
    assert len(found) >= 16
    assert all(option["doc"] for one in found.values() for option in one["options"])
    assert {one["family"] for one in found.values()} == {"two-stage", "dense", "transformer", "any"}
    assert {"torchvision", "transformers"} <= {one["library"] for one in found.values()}
    assert all(one["licence"] for one in found.values())
    for one in (family for name, family in found.items() if name not in ("module", "features")):
        ports = {port["name"]: port for port in one["ports"]}
        assert {"backbone", "neck", "detections"} <= set(ports), one["name"]
        assert len(ports["neck"]["channels"]) == len(ports["neck"]["strides"]) > 0
    logits = {name: [p for p in one["ports"] if p["name"].endswith(".logits")] for name, one in found.items()}
    forms = {name: ports[0]["form"] for name, ports in logits.items() if ports}
    assert (forms["detr"], forms["rt-detr"], forms["gfl"]) == ("softmax", "sigmoid", "sigmoid")
