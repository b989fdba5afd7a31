from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdflow.data.annotations import Trouble
from kdflow.data.check import check_data
from kdflow.data.folders import open_folder
from kdflow.data.formats import DataSource, describe, open_data
from kdflow.errors import DataError
from tests.data.conftest import save_image

YAML = "train: images/train\nval: images/val\nnames: [cat, dog]\n"
Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """``folder(labels, yaml)``: a.jpg of 20 rows and 40 columns in train, b.jpg in val."""

    def write(labels: str | bytes = "1 0.5 0.5 0.25 0.4\n", yaml: str | bytes = YAML) -> Path:
        for split, stem in (("train", "a"), ("val", "b")):
            save_image(tmp_path / "images" / split / f"{stem}.jpg", 20, 40)
            (tmp_path / "labels" / split).mkdir(parents=True, exist_ok=True)
            (tmp_path / "labels" / split / f"{stem}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
        content = labels if isinstance(labels, bytes) else labels.encode()
        (tmp_path / "labels/train/a.txt").write_bytes(content)
        (tmp_path / "data.yaml").write_bytes(yaml if isinstance(yaml, bytes) else yaml.encode())
        return tmp_path

    return write


def opened(root: Path, **options: Any) -> DataSource:
    return open_data("yolo", {"root": str(root), **options})


def test_boxes_are_centres_and_sizes_as_shares_of_the_image(folder: Folder):
    source = open_folder(folder())
    assert (source.format, source.classes) == ("yolo", ("cat", "dog"))
    table = source.splits["train"].annotations
    assert table.boxes.tolist() == [[15, 6, 10, 8]]
    assert table.labels.tolist() == [1]
    assert source.splits["train"].dataset[0].boxes.tolist() == [[15, 6, 25, 14]]


def test_polygons_are_read_as_boxes_and_counted(folder: Folder):
    table = opened(folder("0 0.1 0.2 0.5 0.2 0.5 0.9\n\n1 .1 .1 .2 .1 .2 .3 .1 .3\n")).splits["train"].annotations
    assert table.boxes.round(6).tolist() == [[4, 4, 16, 14], [4, 2, 4, 4]]
    assert [(note.what, note.count) for note in table.notes] == [("boxes taken from polygons", 2)]


@pytest.mark.parametrize(
    ("line", "trouble", "words"),
    [
        ("2 .5 .5 .2 .2", Trouble.UNKNOWN_CLASS, '"2" in a.txt, line 2'),
        ("-1 .5 .5 .2 .2", Trouble.UNKNOWN_CLASS, '"-1" in'),
        ("cat .5 .5 .2 .2", Trouble.UNKNOWN_CLASS, '"cat" in'),
        ("0 .5 .5 .2", Trouble.VALUE, '"0 .5 .5 .2" in a.txt, line 2'),
        ("0 .5 .5 .2 .2 .9", Trouble.VALUE, "four numbers"),
        ("0 .5 .5 .2 x", Trouble.VALUE, '"0 .5 .5 .2 x"'),
        ("0 .5,.5,.2,.2", Trouble.VALUE, "four numbers"),
        ("0", Trouble.VALUE, '"0" in'),
    ],
)
def test_lines_that_cannot_be_taken_are_shown(folder: Folder, line: str, trouble: Trouble, words: str):
    (problem,) = opened(folder(f"1 .5 .5 .2 .2\n{line}\n")).splits.read("train").problems
    assert problem.trouble == trouble
    assert words in problem.example


@pytest.mark.parametrize(
    ("line", "trouble"),
    [
        ("0 nan .5 .2 .2", Trouble.NOT_FINITE),
        ("0 200 100 40 30", Trouble.OUTSIDE),
        ("0 .5 .5 -.2 .2", Trouble.INVERTED),
        ("0 .5 .5 0 .2", Trouble.EMPTY),
        (f"0 {'9' * 5000} .5 .2 .2", Trouble.NOT_FINITE),
    ],
)
def test_wrong_boxes_are_faults_of_the_usual_sorts(folder: Folder, line: str, trouble: Trouble):
    assert opened(folder(line)).splits.read("train").faulty()[trouble].tolist() == [True]


def test_images_without_labels_and_labels_without_images_are_counted(folder: Folder):
    root = folder()
    save_image(root / "images/train/c.jpg", 20, 40)
    save_image(root / "images/train/d.jpg", 20, 40)
    (root / "labels/train/c.txt").write_text("")
    (root / "labels/train/gone.txt").write_text("0 .5 .5 .2 .2\n")
    table = opened(root).splits["train"].annotations
    assert len(table) == 3
    assert {note.what: note.examples for note in table.notes} == {
        "images without a label file, taken as images without objects": ("images/train/d.jpg",),
        "label files without an image, passed over": ("gone.txt",),
    }
    for file in (root / "labels/train").iterdir():
        file.unlink()
    assert Trouble.NO_TARGETS in [fault.what for fault in check_data(root).faults]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("names: [cat, dog, cat]", "names: cat stands twice"),
        ("names: [yes, no]", r"names: true is no text\. Next: put it into quotes"),
        ("names: [1, 2]", "names: 1 is no text"),
        ("names: {0: cat, 2: dog}", "the keys must be the labels, 0, 1, 2"),
        ("names: {0: cat, x: dog}", "the keys must be the labels"),
        ("names: [cat, dog]\nnc: 3", "nc: 3, but names has 2"),
        ("names: cat", "a list of class names is expected"),
        ("names: []", "a list of class names is expected"),
        ("names: &a [*a]", "names: a list is no text"),
        ("nc: 2", "a list of class names is expected"),
        ("names: [cat, dog]\nkpt_shape: [17, 3]", "keypoints are not read"),
        ("names: [cat", "not YAML"),
        ("names: !!int abc", "not YAML"),
        ("names: " + "9" * 5000, "not YAML"),
        ("names: !!python/object/apply:os.system [echo]", "not YAML"),
    ],
)
def test_names_that_cannot_be_taken_are_named(folder: Folder, names: str, words: str):
    root = folder(yaml=f"train: images/train\nval: images/val\n{names}\n")
    with pytest.raises(DataError, match=rf"data\.yaml  annotation file cannot be read: .*{words}"):
        describe("yolo", {"root": str(root)})


def test_names_may_be_a_mapping_in_any_order(folder: Folder):
    yaml = YAML.replace("[cat, dog]", "{1: dog, 0: cat}")
    assert opened(folder(yaml=yaml)).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ("../../elsewhere", "leads out of the data set"),
        ("/etc", "leads out of the data set"),
        ("images/none", "there is no "),
        ("5", "a folder is expected, here is 5"),
        ("{a: b}", "a folder is expected, here is a dict"),
    ],
)
def test_splits_that_cannot_be_taken_are_named(folder: Folder, train: str, words: str):
    root = folder(yaml=YAML.replace("images/train", train))
    with pytest.raises(DataError, match=words):
        describe("yolo", {"root": str(root)})


def test_usual_ways_to_name_splits(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    root = folder()
    (root / "train.txt").write_text("./images/train/a.jpg\n\nimages/train/a b.jpg\n")
    save_image(root / "images/train/a b.jpg", 20, 40)
    for train, path in (
        ("../images/train", ""),
        ("[images/train]", "path: /somebody/else\n"),
        ("train.txt", "path: .\n"),
    ):
        (root / "data.yaml").write_text(path + YAML.replace("images/train", train))
        assert len(opened(root).splits["train"]) == 2
    (root / "data.yaml").write_text("path: images\ntrain: train\nval: val\nnames: [cat, dog]\n")
    monkeypatch.chdir(root.parent)
    assert len(opened(Path(root.name)).splits["train"]) == 2
    (root / "train.txt").write_text("../secret.jpg\n")
    (root / "data.yaml").write_text(YAML.replace("images/train", "train.txt"))
    (problem,) = opened(root).splits.read("train").problems
    assert (problem.trouble, problem.example) == (Trouble.LEAVES, "../secret.jpg")


def test_label_folders_are_found_below_the_root_only(tmp_path: Path):
    root = tmp_path / "images" / "set"
    for split in ("train", "val"):
        save_image(root / split / "images" / f"{split}.jpg", 20, 40)
        (root / split / "labels").mkdir()
        (root / split / "labels" / f"{split}.txt").write_text("0 .5 .5 .2 .2")
    (root / "data.yaml").write_text("train: ../train/images\nval: ../val/images\nnames: [cat]\n")
    assert check_data(root).faults == ()


def test_other_encodings_and_missing_files_are_named(folder: Folder):
    with pytest.raises(DataError, match=r"a\.txt \(it is written in UTF-16"):
        opened(folder("0 .5 .5 .2 .2".encode("utf-16"))).splits["train"]
    with pytest.raises(DataError, match=r"data\.yaml .*UTF-8"):
        opened(folder(yaml=YAML.replace("dog", "Käfer").encode("latin-1")))
    with pytest.raises(DataError, match=r"other\.yaml .*No such file"):
        opened(folder(), file="other.yaml")
