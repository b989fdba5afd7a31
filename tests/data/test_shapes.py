from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from kdflow.data.drawing import SHAPES, _cover, _extent
from kdflow.data.formats import describe, open_data
from kdflow.data.shapes import VERSION, ShapesOptions, cache_folder, drawn_folder, scene
from kdflow.errors import UsageError

SMALL = {"images": {"train": 6, "val": 2, "test": 2}, "pixels": 64}
PLAIN = {"clutter": 0, "noise": 0, "occlusion": 0.0, "contrast": (0.4, 0.5)}

_HASH = """
import hashlib
import numpy as np
from kdflow.data.drawing import SHAPES, Style, draw
style = Style((1, 8), (0.1, 0.6), (0.12, 0.5), 0.5, 0.6, 0.04)
scenes = [draw(np.random.default_rng((0, i)), tuple(SHAPES), 64, 56, style) for i in range(6)]
digest = hashlib.sha256(b"".join(s.image.tobytes() + repr((s.labels, s.boxes)).encode() for s in scenes)).hexdigest()
"""


def test_every_process_draws_the_same(monkeypatch: pytest.MonkeyPatch):
    here: dict[str, str] = {}
    exec(_HASH, here)
    monkeypatch.setenv("PYTHONHASHSEED", "1")
    done = subprocess.run([sys.executable, "-c", _HASH + "print(digest)"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == here["digest"]


def test_a_change_of_the_drawing_raises_its_version():
    """When this fails the drawing has changed: raise VERSION (old folders must not be used) and store the new hash."""
    drawn = [scene(ShapesOptions(pixels=96), "train", i) for i in range(20)]
    text = json.dumps([[s.labels, s.boxes] for s in drawn])
    known = {1: "138e8c9213263b49"}
    assert known[VERSION] == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_scenes_do_not_depend_on_how_many_are_drawn_and_differ_between_splits_and_seeds():
    def image(split: str = "train", index: int = 3, **options: object) -> bytes:
        return scene(ShapesOptions(**{"pixels": 64, **options}), split, index).image.tobytes()

    assert image() == image(images={"train": 5})
    assert len({image(), image("val"), image("test"), image(index=4), image(seed=1)}) == 5


@pytest.mark.parametrize(
    "changes", [{}, {"ragged": 0.5, "objects": (4, 12)}, {"occlusion": 0.8, "object_size": (0.05, 1.2)}]
)
def test_every_box_is_tight_around_visible_pixels(changes: dict[str, object]):
    options = ShapesOptions(**{"pixels": 96, **changes})
    boxes = 0
    for index in range(25):
        drawn = scene(options, "train", index)
        height, width = drawn.image.shape[:2]
        for (left, top, right, bottom), mask in zip(drawn.boxes, drawn.masks, strict=True):
            ys, xs = np.nonzero(mask)
            assert (left, top, right, bottom) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
            boxes += 1
        assert np.sum(drawn.masks, axis=0).max(initial=0) <= 1  # a pixel shows one object
    assert boxes > 50


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_masks_and_boxes_are_where_the_pixels_are(shape: str):
    """One object on an even background: every changed pixel lies in the box, up to the soft edge, and reaches its sides."""
    options = ShapesOptions(
        **{**PLAIN, "classes": (shape,), "pixels": 96, "objects": (1, 1), "object_size": (0.3, 0.5)}
    )
    for index in range(6):
        drawn = scene(options, "val", index)
        (left, top, right, bottom), mask = drawn.boxes[0], drawn.masks[0]
        image = drawn.image.astype(int)
        inside, outside = image[mask].mean(axis=0), image[~mask].mean(axis=0)
        axis = inside - outside
        # light and tint vary slowly, an object's edge is a step: compare with the nearest side of the step
        changed = (image - (inside + outside) / 2) @ axis > 0
        agree = (changed == mask).mean()
        assert np.abs(axis).max() > 40
        assert agree > 0.85
        assert mask[top:bottom, left:right].sum() == mask.sum() > 0


def test_cover_lies_where_the_outline_lies():
    rng, centres = np.random.default_rng(0), []
    ys, xs = np.mgrid[:40, :48] + 0.5
    for _ in range(100):
        turn, middle = rng.uniform(0, 7), rng.uniform(18, 22, size=2)
        corners = turn + np.arange(5) * 2 * np.pi / 5
        outline = 10 * np.stack([np.cos(corners), np.sin(corners)], axis=1) + middle
        cover = _cover(outline, 40, 48)
        centres.append([(cover * xs).sum() / cover.sum() - middle[0], (cover * ys).sum() / cover.sum() - middle[1]])
        assert cover.sum() == pytest.approx(237.8, rel=0.04)  # 5 / 2 * r^2 * sin 72
        assert np.abs(np.array(_extent(cover >= 0.5)).reshape(2, 2) - [outline.min(0), outline.max(0)]).max() < 1
    assert np.abs(np.mean(centres, axis=0)).max() < 0.02


def test_an_outline_across_the_border_covers_what_is_inside():
    cover = _cover(np.array([[-5.0, -5.0], [4.0, -5.0], [4.0, 3.0], [-5.0, 3.0]]), 10, 12)
    assert cover[:3, :4].min() == 1
    assert cover[4:].sum() + cover[:, 5:].sum() == 0
    assert _cover(np.array([[20.0, 3.0], [25.0, 3.0], [22.0, 9.0]]), 10, 12).sum() == 0


def test_hidden_parts_stay_below_the_wanted_share():
    """Circles: with occlusion 0 a whole ellipse fills each box, with 0.8 some are cut."""

    def least_fill(occlusion: float) -> float:
        options = ShapesOptions(
            classes=("circle",), pixels=96, objects=(6, 6), object_size=(0.2, 0.5), clutter=1.0, occlusion=occlusion
        )
        drawn = [scene(options, "train", index) for index in range(10)]
        fills = [
            mask.sum() / ((right - left) * (bottom - top))
            for s in drawn
            for (left, top, right, bottom), mask in zip(s.boxes, s.masks)
        ]
        assert len(fills) > 15
        return float(min(fills))

    assert least_fill(0.0) > 0.7
    assert least_fill(0.8) < 0.55


def test_options_change_what_they_say():
    many = scene(ShapesOptions(pixels=96, objects=(5, 5), occlusion=0.9), "train", 0)
    none = scene(ShapesOptions(pixels=96, objects=(0, 0)), "train", 0)
    big = scene(ShapesOptions(pixels=96, objects=(3, 3), object_size=(0.5, 0.6), occlusion=0.5), "train", 1)
    assert len(many.labels) == 5
    assert (none.labels, none.image.shape) == ((), (96, 96, 3))
    assert min(max(r - l, b - t) for l, t, r, b in big.boxes) > 20  # noqa: E741
    shapes = {scene(ShapesOptions(pixels=96, ragged=0.5), "train", i).image.shape for i in range(6)}
    assert len(shapes) > 3
    labels = {label for i in range(20) for label in scene(ShapesOptions(classes=("star", "cross")), "train", i).labels}
    assert labels == {0, 1}


def test_the_set_is_written_once_as_a_coco_folder_of_images_and_read_back(home: Path):
    options = ShapesOptions(**SMALL)
    source = open_data("shapes", SMALL)
    assert not home.exists()  # nothing is drawn before a split is asked for
    split = source.splits["train"]
    folder = cache_folder(options)
    assert folder.parent == home / "data"
    assert sorted(path.name for path in folder.iterdir()) == ["annotations", "test", "train", "val"]
    assert len(list((folder / "train").glob("*.jpg"))) == len(split) == 6
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    open_data("shapes", SMALL).splits["test"]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # no drafts are left


def test_files_and_annotations_are_those_of_the_scenes(home: Path):
    split = open_data("shapes", SMALL).splits["train"]
    assert split.dataset.annotations.classes == tuple(SHAPES)
    for index in range(6):
        sample, drawn = split.dataset[index], scene(ShapesOptions(**SMALL), "train", index)
        assert [tuple(box) for box in sample.boxes.tolist()] == list(drawn.boxes)
        assert sample.labels.tolist() == list(drawn.labels)
        difference = np.abs(sample.image.numpy().transpose(1, 2, 0).astype(int) - drawn.image)
        assert difference.mean() < 8  # JPEG of a noisy image
    areas = [row["area"] for row in split.coco["annotations"]]
    assert areas == [int(m.sum()) for i in range(6) for m in scene(ShapesOptions(**SMALL), "train", i).masks]


def test_an_interrupted_drawing_leaves_nothing_behind(home: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kdflow.data.shapes.Image.Image.save", stop)
    with pytest.raises(KeyboardInterrupt):
        drawn_folder(ShapesOptions(**SMALL))
    assert list((home / "data").iterdir()) == []


def test_a_process_that_finishes_second_uses_the_first_ones_folder(home: Path, monkeypatch: pytest.MonkeyPatch):
    options = ShapesOptions(**SMALL)
    folder = cache_folder(options)

    def slow(draft: Path, _: ShapesOptions) -> None:
        folder.mkdir()
        (folder / "theirs").touch()

    monkeypatch.setattr("kdflow.data.shapes.write_shapes", slow)
    assert drawn_folder(options) == folder
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert (folder / "theirs").exists()


def test_other_options_have_another_folder(home: Path):
    folders = {cache_folder(ShapesOptions(**SMALL, **changes)) for changes in ({}, {"seed": 1}, {"noise": 0.1})}
    assert len(folders) == 3


def test_the_fingerprint_sees_what_only_changes_pixels(home: Path):
    prints = {open_data("shapes", {**SMALL, "noise": noise}).fingerprint for noise in (0.0, 0.1)}
    assert len(prints) == 2


def test_describe_draws_nothing(home: Path):
    assert describe("shapes", {"classes": ["star", "circle"]}) == ("star", "circle")
    assert not home.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": ["sqare"]}, 'no shape "sqare". Did you mean "square"'),
        ({"classes": ["star", "star"]}, "listed twice"),
        ({"objects": [5, 2]}, "objects must be"),
        ({"object_size": [0.001, 0.5]}, "object_size must lie"),
        ({"images": {"train": 0}}, "data.images.train: input should be greater than 0"),
        ({"nois": 0.1}, 'data.nois: unknown key. Did you mean "noise"'),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], words: str):
    with pytest.raises(UsageError) as caught:
        describe("shapes", options)
    assert words in str(caught.value)
    with pytest.raises(ValidationError):
        ShapesOptions.model_validate(options)
