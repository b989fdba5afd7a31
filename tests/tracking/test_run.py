from pathlib import Path
from types import SimpleNamespace

import pytest

from kdflow.tracking.run import RunFacts, StoredRun, flat, safe_name, step_metrics


def facts(**other) -> RunFacts:
    values = {
        "method": "defeat", "bench": "shapes-frcnn", "seed": 3, "run_hash": "abc", "definition": "def", "fidelity": "code",
        "families": {"student": "two-stage", "teacher": "two-stage"},
        "detectors": {"student": "faster-rcnn", "teacher": "faster-rcnn"},
        "terms": {"det/loss_objectness": (), "kd/neck": ("cnn/neck",), "kd/roi": ("cnn/rpn-roi", "cnn/head")},
    }
    return RunFacts(**{**values, **other})


def test_tags_name_every_node_that_a_term_touches():
    tags = facts().tags()
    assert {key for key in tags if key.startswith("node.")} == {"node.cnn/neck", "node.cnn/rpn-roi", "node.cnn/head"}
    assert tags["method"] == "defeat"
    assert tags["seed"] == "3"
    assert tags["kdflow.run_hash"] == "abc"
    assert tags["family.teacher"] == "two-stage"
    assert "paper" not in tags, "what is not known has no tag"


def test_overrides_become_a_variant_in_a_fixed_order():
    assert facts(overrides={"b": 2, "a.x": 1, "c": None}).variant == "a.x=1, b=2"
    assert facts(overrides={"b": 2}, bench_overrides={"recipe.steps": 3, "recipe.epochs": None}).bench_variant == "recipe.steps=3"
    assert "variant" not in facts().tags()


@pytest.mark.parametrize(
    ("families", "detectors", "pair"),
    [
        ({"student": "dense", "teacher": "dense"}, {"student": "fcos", "teacher": "fcos"}, "homogeneous"),
        ({"student": "dense", "teacher": "dense"}, {"student": "fcos", "teacher": "retinanet"}, "heterogeneous"),
        ({"student": "dense", "teacher": "two-stage"}, {"student": "fcos", "teacher": "faster-rcnn"}, "heterogeneous"),
        ({"student": "dense", "teacher": "transformer"}, {"student": "fcos", "teacher": "detr"}, "cross-family"),
        ({"student": "dense"}, {"student": "fcos"}, "teacher-free"),
        ({}, {}, ""),
    ],
)
def test_the_pair_follows_from_the_detectors(families, detectors, pair: str):
    assert facts(families=families, detectors=detectors).pair == pair


def event(**other) -> SimpleNamespace:
    values = {
        "step": 20, "total": 3.75, "lr": 0.01, "step_time": 0.5, "images_per_second": 4.0, "peak_memory": None,
        "raw": {"det/loss_objectness": 0.75, "kd/neck": 1.0, "kd/roi": 2.0},
        "weighted": {"det/loss_objectness": 0.75, "kd/neck": 2.0, "kd/roi": 1.0},
    }
    return SimpleNamespace(**{**values, **other})


def test_a_step_is_summed_up_by_taxonomy_node():
    values = step_metrics(event(), facts().terms)
    assert values["loss/total"] == 3.75
    assert values["loss/det"] == 0.75
    assert values["loss/kd"] == 3.0
    assert values["loss/cnn/neck"] == 2.0
    assert values["loss/cnn/rpn-roi"] == 1.0
    assert "loss/cnn/head" not in values, "a term counts at its primary node only, so that nodes add up to loss/kd"
    assert (values["raw/kd/roi"], values["weighted/kd/roi"]) == (2.0, 1.0)
    assert values["images_per_second"] == 4.0


def test_terms_of_one_node_add_up():
    terms = {"kd/a": ("cnn/neck",), "kd/b": ("cnn/neck",)}
    values = step_metrics(event(raw={}, weighted={"kd/a": 1.0, "kd/b": 0.5}), terms)
    assert values["loss/cnn/neck"] == 1.5
    assert "loss/det" not in values


def test_leaves_of_a_spec_are_named_by_their_path():
    spec = {"terms": {"neck": {"weight": 3.0, "factors": ["a", "b"]}}, "variants": [{"set": {}}], "empty": {}, "bench": None}
    assert flat(spec) == {
        "terms.neck.weight": "3.0", "terms.neck.factors": "['a', 'b']", "variants[0].set": "{}", "empty": "{}", "bench": "None",
    }


def test_names_that_stores_refuse_are_changed():
    assert safe_name("val/AP[cat & dog]") == "val/AP_cat _ dog_"
    assert safe_name("loss/cnn/rpn-roi") == "loss/cnn/rpn-roi"


def test_the_result_of_a_stored_run_is_what_has_a_plain_name_and_a_value():
    metrics = {"AP": 30.0, "AP_S": float("nan"), "val/AP": 29.0, "loss/total": 1.0, "lr": 0.1, "step_time": 0.2}
    run = StoredRun("id", "finished", "2026", {"node.b": "true", "node.a": "true"}, metrics)
    assert run.result == {"AP": 30.0}
    assert run.named("node") == ("a", "b")


def test_facts_keep_paths_as_they_are():
    assert facts(artifacts=(Path("run.yaml"),)).artifacts == (Path("run.yaml"),)
