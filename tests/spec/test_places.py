"""Paths in a bench are relative to its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdflow.resources import specs_folder
from kdflow.spec.resolve import load_bench

BENCH = """kdflow: 1
bench: mine
data: {{format: coco, root: {root}}}
student: {{detector: retinanet, weights: {weights}}}
teachers: {{one: {{detector: retinanet, weights: w/one.pt, pretrained_backbone: IMAGENET1K_V1}}}}
recipe: {{steps: 1}}
"""


def bench(folder: Path, root: str = "data/coco", weights: str = "mine.pt") -> tuple[str, str | None, str | None]:
    folder.mkdir(exist_ok=True)
    (folder / "mine.yaml").write_text(BENCH.format(root=root, weights=weights))
    loaded = load_bench(folder / "mine.yaml")
    return loaded.data.options["root"], loaded.student.weights, loaded.teachers["one"].weights


def test_folders_and_files_are_relative_to_the_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    expected = tuple(str(tmp_path / "b" / name) for name in ("data/coco", "mine.pt", "w/one.pt"))
    assert bench(tmp_path / "b") == expected
    monkeypatch.chdir(tmp_path)
    assert bench(Path("b")) == expected
    assert bench(Path("b"), "../up", "./w/x")[:2] == (str(tmp_path / "up"), str(tmp_path / "b/w/x"))


@pytest.mark.parametrize("path", ["/abs/x", "~/x", "$DATA/x"])
def test_paths_from_elsewhere_stay(tmp_path: Path, path: str):
    assert bench(tmp_path, path, f"{path}.pt")[:2] == (path, f"{path}.pt")


def test_names_that_a_library_knows_stay_unless_something_of_that_name_lies_beside(tmp_path: Path):
    assert bench(tmp_path, weights="org/model")[1] == "org/model"
    (tmp_path / "org/model").mkdir(parents=True)
    assert bench(tmp_path, weights="org/model")[1] == str(tmp_path / "org/model")
    (tmp_path / "IMAGENET1K_V1").touch()
    loaded = load_bench(tmp_path / "mine.yaml")
    assert loaded.teachers["one"].options["pretrained_backbone"] == str(tmp_path / "IMAGENET1K_V1")


def test_what_is_set_from_outside_is_relative_to_where_that_is_done(tmp_path: Path):
    bench(tmp_path)
    loaded = load_bench(tmp_path / "mine.yaml", {"data.root": "here", "student.weights": "x.pt"})
    assert (loaded.data.options["root"], loaded.student.weights) == ("here", "x.pt")


def test_benches_of_kdflow_lie_in_no_folder_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert load_bench(specs_folder() / "benches" / "coco-fcos.yaml").data.options["root"] == str(tmp_path / "data/coco")
