"""``kdflow data``."""

from __future__ import annotations

import json

import pytest

SMALL = ("--set", "images.train=3", "--set", "images.val=2", "--set", "images.test=2", "--set", "pixels=48")


@pytest.fixture
def drawn(call, tmp_path):
    folder = tmp_path / "drawn"
    assert call("data", "shapes", folder, *SMALL).code == 0
    return folder


def test_drawn_set_is_a_coco_folder_that_passes_the_check(call, drawn):
    assert (drawn / "annotations" / "instances_train.json").is_file()
    done = call("data", "check", drawn, "--json")
    assert done.code == 0
    assert [split["images"] for split in json.loads(done.out)["splits"]] == [3, 2, 2]


def test_without_a_folder_the_set_is_drawn_into_the_cache(call, tmp_path, monkeypatch):
    monkeypatch.setenv("KDFLOW_HOME", str(tmp_path / "home"))
    done = call("data", "shapes", *SMALL)
    assert done.out.strip().startswith(str(tmp_path / "home"))


def test_faulty_data_are_a_mistake(call, drawn):
    file = drawn / "annotations" / "instances_train.json"
    document = json.loads(file.read_text())
    document["annotations"][0]["bbox"] = [-50, -50, 3, 3]
    file.write_text(json.dumps(document))
    done = call("data", "check", drawn)
    assert done.code == 2
    assert "outside its image" in done.out


def test_converting_there_and_back(call, drawn, tmp_path):
    voc, coco = tmp_path / "voc", tmp_path / "coco"
    assert call("data", "convert", drawn, voc, "--to", "voc").code == 0
    assert (voc / "ImageSets" / "Main" / "train.txt").is_file()
    assert call("data", "convert", voc, coco, "--to", "coco").code == 0
    assert call("data", "check", coco).code == 0


def test_a_folder_with_files_is_not_written_into(call, drawn):
    assert call("data", "shapes", drawn, *SMALL).code == 2
    assert call("data", "convert", drawn, drawn, "--to", "coco").code == 2


@pytest.mark.parametrize(
    "words", [["check", "nowhere"], ["shapes", "--set", "pixel=3"], ["convert", ".", "x", "--to", "yolo"]]
)
def test_wrong_words_are_mistakes(call, words):
    done = call("data", *words)
    assert done.code == 2
    assert done.err


def test_data_of_a_bench(call, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("KDFLOW_HOME", str(tmp_path))
    assert "shapes, " in call("data", "check", tiny).out


def test_the_check_counts_by_class_and_split_and_writes_a_page(call, drawn, tmp_path):
    done = call("data", "check", drawn, "--page", tmp_path / "page.html")
    assert done.code == 0
    assert done.out.splitlines()[1].split() == ["class", "train", "val", "test"]
    assert "half of the boxes are below" in done.out
    assert (tmp_path / "page.html").read_text().count("<figure>") == 7
