"""Augmentation: pictures and boxes move alike, every picture of a run is the same again, and boxes are counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdflow.data.augment import GREY, Around, Tally, augment
from kdflow.data.check import require_ready
from kdflow.data.formats import DataSource, Split, open_data
from kdflow.data.loader import Place, Prepared, make_loader
from kdflow.data.transforms import Geometry, Sample, Step, as_boxes
from kdflow.errors import SpecError
from kdflow.experiment.feed import geometry_of
from kdflow.spec.load import parse
from kdflow.spec.resolve import bench_of
from tests.data.conftest import save_image
from tests.data.test_transforms import bright_extent, painted

STEPS = ("flip", "scale", "crop", "colour", "mosaic", "mixup")
ALL = tuple(Step(name, p=0.7) for name in ("mosaic", "scale", "crop", "colour", "mixup", "flip"))  # type: ignore[arg-type]


def around(seed: int, others: list[Sample], geometry: Geometry | None = None, tally: Tally | None = None) -> Around:
    target = (geometry or Geometry(40, 60)).target
    return Around(np.random.default_rng(seed), len(others), others.__getitem__, target, tally or Tally())


@pytest.mark.parametrize("name", ["scale", "crop"])
def test_boxes_stay_on_their_objects(name: Any):
    moved = 0
    for seed in range(30):
        sample = augment(painted(40, 60, (20, 12, 32, 26)), [Step(name, p=1)], around(seed, []))
        if not len(sample.boxes):
            continue
        bright, (box,) = bright_extent(sample.image), sample.boxes.tolist()
        assert box == pytest.approx(bright, abs=1.5)
        moved += box != [20, 12, 32, 26]
    assert moved > 10


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("geometry", [Geometry(40, 60), Geometry(48, fixed=True)])
def test_every_step_keeps_what_a_batch_needs(name: Any, geometry: Geometry):
    height, width = geometry.target(40, 60)
    others = [painted(height, width, (1, 2, 30, 20)), painted(height, width, (5, 5, 9, 11))]
    for seed in range(10):
        sample = augment(painted(height, width, (3, 4, 33, 30)), [Step(name, p=1)], around(seed, others, geometry))
        high, wide = sample.image.shape[-2:]
        assert (high, wide) == (48, 48) if geometry.fixed else max(high, wide) <= 60
        assert sample.image.dtype == torch.uint8
        boxes = sample.boxes.as_subclass(Tensor)
        assert len(boxes) == len(sample.labels)
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= torch.tensor([wide, high])).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()
        assert sample.boxes.canvas_size == (high, wide)


def test_a_smaller_picture_is_set_into_grey():
    sample = augment(painted(40, 60, (20, 12, 32, 26)), [Step("scale", p=1, low=0.5, high=0.5)], around(0, []))
    assert sample.image.shape == (3, 40, 60)
    assert int((sample.image == GREY).all(dim=0).sum()) == 40 * 60 - 20 * 30


def test_mosaic_is_made_of_four_pictures_without_gaps():
    def plain(value: int) -> Sample:
        image = torch.full((3, 40, 60), value, dtype=torch.uint8)
        return Sample(
            image, as_boxes(torch.tensor([[0.0, 0, 60, 40]]), (40, 60)), torch.tensor([value]), value, (40, 60)
        )  # type: ignore[arg-type]

    sample = augment(plain(10), [Step("mosaic", p=1)], around(3, [plain(20), plain(30), plain(40)]))
    assert set(sample.image.unique().tolist()) <= {10, 20, 30, 40}
    assert int(sample.image[0, 0, 0]) == 10
    assert sample.labels[0] == 10
    for box, label in zip(sample.boxes.as_subclass(Tensor).int().tolist(), sample.labels.tolist()):
        assert (sample.image[:, box[1] : box[3], box[0] : box[2]] == label).all()
    areas = (sample.boxes[:, 2] - sample.boxes[:, 0]) * (sample.boxes[:, 3] - sample.boxes[:, 1])
    assert areas.sum() == 40 * 60


def test_mixup_is_the_mean_with_the_boxes_of_both():
    first, second = painted(20, 30, (3, 4, 10, 16)), painted(20, 30, (15, 4, 20, 9))
    sample = augment(first, [Step("mixup", p=1)], around(0, [second]))
    assert sample.boxes.tolist() == [[3, 4, 10, 16], [15, 4, 20, 9]]
    mean = (first.image.int() + second.image.int()) // 2
    assert torch.equal(sample.image.as_subclass(Tensor).int(), mean.as_subclass(Tensor))


def test_boxes_that_are_cut_or_lost_are_counted():
    tally = Tally()
    before = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 1, 1]])
    inside = torch.tensor([[0.0, 0, 10, 10], [0, 0, 5, 10], [0, 0, 2, 10], [0, 0, 0.5, 1]])
    assert tally.keep(before, inside).tolist() == [True, True, False, False]
    assert (tally.met, tally.cut, tally.gone) == (4, 1, 2)


@pytest.fixture
def split(tmp_path: Path, write_coco: Any) -> Split:
    images = [(k, f"{k}.png", 40, 60) for k in range(1, 7)]
    boxes = [{"image_id": k, "category_id": 3, "bbox": [k, 2, 20, 30], "iscrowd": 0} for k in range(1, 7)]
    write_coco("val", images, boxes)
    return source_of(write_coco("train", images, boxes)).splits["train"]


def source_of(root: Path) -> DataSource:
    return open_data("coco", {"root": str(root)})


def pictures(
    split: Split, geometry: Geometry, start: int = 0, steps: int = 6, seed: int = 0, workers: int = 0
) -> list[Tensor]:
    options = {"batch_size": 2, "train": True, "seed": seed, "workers": workers, "size_divisor": 1}
    loader = iter(make_loader(split, geometry, start_step=start, **options))  # type: ignore[arg-type]
    return [next(loader).images for _ in range(steps)]


@pytest.mark.parametrize("resident", [False, True])
def test_a_run_that_is_resumed_sees_the_same_pictures(split: Split, resident: bool):
    geometry = Geometry(40, 60, resident=resident, augment=ALL)
    whole = pictures(split, geometry)
    state = torch.random.get_rng_state()
    assert all(torch.equal(a, b) for a, b in zip(whole[4:], pictures(split, geometry, start=4, steps=2), strict=True))
    assert torch.equal(state, torch.random.get_rng_state())
    assert not all(torch.equal(a, b) for a, b in zip(whole[:3], whole[3:]))  # the second epoch is another
    assert not all(torch.equal(a, b) for a, b in zip(whole, pictures(split, geometry, seed=1)))


def test_workers_make_the_same_pictures(split: Split):
    geometry = Geometry(40, 60, augment=ALL)
    assert all(
        torch.equal(a, b) for a, b in zip(pictures(split, geometry), pictures(split, geometry, workers=2), strict=True)
    )


def test_evaluation_is_not_augmented(split: Split):
    prepared = Prepared(split.dataset, Geometry(40, 60, augment=ALL), seed=0)
    sample = prepared[Place(0)]
    assert isinstance(sample, Sample)
    assert torch.equal(sample.image, split.dataset[0].image)


def test_a_recipe_without_steps_draws_what_flip_alone_draws(split: Split):
    listed, default = Geometry(40, 60, augment=(Step("flip"),)), Geometry(40, 60, flip=0.5)
    assert all(torch.equal(a, b) for a, b in zip(pictures(split, listed), pictures(split, default), strict=True))


def test_what_happens_to_boxes_is_told_before_a_run(write_coco: Any, split: Split, tmp_path: Path):
    source = source_of(tmp_path / "coco")
    (note,) = require_ready(source, Geometry(40, 60, augment=ALL))
    assert "boxes met by augmentation (mosaic, scale, crop, colour, mixup, flip) in 6 pictures" in note.what
    assert note.count > 6
    assert not note.fatal
    assert require_ready(source, Geometry(40, 60)) == ()


BENCH = """kdflow: 1
bench: small
data:
  format: shapes
  augment:
    - {{name: scale, low: 0.8}}
    - {step}
student: {{detector: fcos}}
recipe: {{steps: 10}}
"""


def test_steps_of_a_bench_are_those_of_the_loader():
    data = bench_of(parse(BENCH.format(step="{name: colour, p: 1, hue: 0}"))).data
    assert geometry_of(data).steps == (Step("scale", low=0.8), Step("colour", p=1, hue=0))
    assert [type(data.augment[0]).model_fields[key].default for key in ("p", "low", "high", "least", "hue")] == [
        Step.__dataclass_fields__[key].default for key in ("p", "low", "high", "least", "hue")
    ]
    assert data.model_dump()["augment"][1] == {
        "name": "colour", "p": 1, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0,
    }  # fmt: skip
    assert type(data).model_validate(data.model_dump()) == data


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("{name: flp}", 'expected "flip", "scale"'),
        ("{name: flip, low: 0.5}", "low has no effect on flip; it reads p"),
        ("{name: crop, p: 0}", "a number above 0"),
        ("{name: crop, most: 1}", 'unknown key "most"'),
        ("{p: 1}", 'the key "name" is missing'),
        ("flip", "a mapping of keys to values"),
    ],
)
def test_wrong_steps_are_told_at_their_line(step: str, words: str):
    with pytest.raises(SpecError) as caught:
        bench_of(parse(BENCH.format(step=step)))
    assert words in str(caught.value)
    assert caught.value.faults[0].line == 7


VALUES = st.sampled_from([0, 1, -1, 0.5, 1e-300, 1e300, 2**63, float("inf"), float("nan"), "1", "x", None, True, [], {}])
KEYS = st.sampled_from(["p", "low", "high", "least", "hue", "brightness", "contrast", "saturation"])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(name=st.sampled_from(STEPS) | VALUES, values=st.dictionaries(KEYS, VALUES, max_size=3))
def test_any_values_in_a_step_are_refused_or_give_a_picture(name: Any, values: dict[str, Any]):
    try:
        data = bench_of(parse(BENCH.format(step=json.dumps({"name": name, **values})))).data
    except SpecError as refused:
        lines = {fault.line for fault in refused.faults}
    else:
        lines = {7}
        others = [painted(40, 60, (1, 2, 30, 20))]
        sample = augment(painted(40, 60, (3, 4, 33, 30)), geometry_of(data).steps, around(0, others))
        assert sample.image.dtype == torch.uint8
        assert bool(torch.isfinite(sample.boxes).all())
    assert lines == {7}


def test_flip_beside_a_list_is_refused():
    with pytest.raises(SpecError, match="flip has no effect beside augment"):
        bench_of(parse(BENCH.format(step="{name: flip}").replace("  format", "  flip: 0.5\n  format")))


def test_a_broken_picture_in_a_mosaic_is_named(split: Split):
    save_image(Path(split.annotations.files[0]), 9, 9)
    prepared = Prepared(split.dataset, Geometry(40, 60, augment=(Step("mosaic", p=1),)), seed=0)
    told = [prepared[Place(index, 0)] for index in range(1, 6)]
    assert any(isinstance(found, str) and "1.png is 9x9, annotated 60x40" in found for found in told)
