"""Numbers and keys of a bench that would do nothing, or something absurd."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from kdflow.errors import SpecError
from kdflow.experiment.reading import read_method
from kdflow.experiment.setup import prepare
from kdflow.spec.bench import Bench
from kdflow.spec.load import parse
from kdflow.spec.resolve import bench_of

TEXT = """kdflow: 1
bench: small
data: {format: shapes}
student: {detector: fcos}
recipe: {steps: 10}
"""


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("schedule", ["constant", "step", "cosine", "one_cycle", "linear"])
@pytest.mark.parametrize("fixed", [True, False])
def test_what_is_written_down_of_a_bench_can_be_read_again(optimizer: str, schedule: str, fixed: bool) -> None:
    document = parse(TEXT, "bench.yaml")
    document.data["data"]["fixed"] = fixed
    document.data["recipe"] |= {"optimizer": {"name": optimizer}, "schedule": {"name": schedule}}
    bench = bench_of(document)
    assert Bench.model_validate(bench.model_dump(mode="json")) == bench


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("recipe.optimizer.lr_factors", {"head.*": 0}, 'the factor of "head.*" is 0; it must be above 0'),
        ("recipe.optimizer.lr_factors", {"head.*": -2.0}, "it must be above 0"),
        ("recipe.optimizer.lr", 1e9, "of at most 100"),
        ("recipe.optimizer", {"name": "adam", "momentum": 0.5}, "momentum has no effect on adam"),
        ("recipe.schedule", {"name": "cosine", "milestones": [0.5]}, "milestones has no effect on cosine"),
        ("recipe.schedule", {"name": "step", "milestones": [0.9, 0.5]}, "milestones must rise"),
        ("recipe.schedule", {"name": "step", "milestones": []}, "at least one entry"),
        ("recipe.schedule", {"name": "step", "milestones": [-1]}, "a number above 0 (got -1)"),
        ("recipe.schedule", {"name": "cosine", "final_factor": 3}, "of at most 1 (got 3)"),
        ("recipe.schedule", {"warmup_factor": 0.1}, "warmup_factor has no effect without warmup"),
        ("recipe.batch", True, "expected a number (got true)"),
        ("data.flip", 2, "of at most 1 (got 2)"),
        ("student.weights_classes", "coco80", "weights_classes has no effect without weights:"),
        ("student.weights_entry", "ema", "weights_entry has no effect without weights:"),
        ("data.size", 2000, "max_size 1333 is below size 2000"),
        ("data", {"format": "shapes", "fixed": True, "max_size": 800}, "max_size has no effect"),
        ("evaluation.max_detections", 0, "a number above 0"),
        ("bench", "a/b", "small letters, digits and dashes"),
        ("bench", "..", "small letters, digits and dashes"),
        ("bench", "x" * 200, "at most 100 letters"),
    ],
)
def test_a_value_without_sense_is_refused(path: str, value: object, words: str) -> None:
    document = parse(TEXT, "bench.yaml")
    holder = document.data
    *steps, last = path.split(".")
    for step in steps:
        holder = holder.setdefault(step, {})
    holder[last] = value
    with pytest.raises(SpecError) as error:
        bench_of(document)
    assert words in str(error.value)
    assert "1 problem," in str(error.value)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"recipe.batch": 1, "data.size": 32, "student.norm": "batch"}, "recipe.batch: one image per step leaves one value"),
        ({"recipe.batch": 2, "data.size": 32, "student.norm": "batch"}, ""),
        ({"recipe.batch": 1, "data.size": 64, "student.norm": "batch"}, ""),
        ({"recipe.batch": 1, "data.size": 32, "student.norm": "batch", "recipe.norms": "frozen"}, ""),
        ({"recipe.batch": 1, "data.size": 32}, ""),
    ],
)
def test_a_batch_norm_on_one_value_is_named_before_training(changes: dict[str, Any], found: str) -> None:
    bench = Path(__file__).parents[1] / "benches" / "tiny-retinanet.yaml"
    with pytest.raises(SpecError) if found else nullcontext() as caught:
        prepare(read_method("baseline"), bench, overrides=changes)
    if found:
        (fault,) = caught.value.faults
        assert found in str(fault)
        assert "layer body.layer4.0.bn1" in str(fault)
