"""``kdflow new``."""

from __future__ import annotations

import pytest

from kdflow.data.formats import parse_options
from kdflow.data.shapes import write_shapes


@pytest.mark.parametrize("like", [[], ["--like", "defeat"], ["--like", "defeat-backbone"]])
def test_a_new_spec_passes_the_check(call, tiny, tmp_path, like):
    done = call("new", "my-method", "--folder", tmp_path, *like)
    assert done.code == 0, done.err
    path = tmp_path / "my-method.yaml"
    assert "method: my-method" in path.read_text()
    checked = call("check", path, "--bench", tiny)
    assert checked.code == 0, checked.err


def test_comments_of_the_copied_spec_are_kept(call, tmp_path):
    call("new", "mine", "--like", "defeat", "--folder", tmp_path)
    assert "DeFeat.pytorch" in (tmp_path / "mine.yaml").read_text()


def test_an_existing_file_is_not_overwritten(call, tmp_path):
    call("new", "mine", "--folder", tmp_path)
    before = (tmp_path / "mine.yaml").read_text() + "# my own words\n"
    (tmp_path / "mine.yaml").write_text(before)
    done = call("new", "mine", "--folder", tmp_path)
    assert done.code == 2
    assert "exists" in done.err
    assert (tmp_path / "mine.yaml").read_text() == before


@pytest.mark.parametrize("words", [["My Method"], ["../x"], ["mine", "--like", "no-such"]])
def test_wrong_names_are_refused(call, tmp_path, words):
    done = call("new", *words, "--folder", tmp_path / "inside")
    assert done.code == 2
    assert not (tmp_path / "inside").exists()


@pytest.fixture
def pictures(tmp_path):
    options = parse_options("shapes", {"pixels": 64, "images": {"train": 4, "val": 2, "test": 2}})
    write_shapes(tmp_path / "pictures", options)
    return tmp_path / "pictures"


def test_a_new_bench_passes_the_check(call, pictures, tmp_path):
    done = call("new", "--bench", "mine", "--data", pictures, "--student", "retinanet/timm:test_resnet", "--folder", tmp_path)
    assert done.code == 0, done.err
    assert "ImageNet weights are not on this machine" in done.err
    path = tmp_path / "mine.yaml"
    checked = call("check", "--bench", path)
    assert checked.code == 0, checked.err
    before = path.read_text()
    again = call("new", "--bench", "mine", "--data", pictures, "--folder", tmp_path)
    assert (again.code, path.read_text()) == (2, before)
    assert "exists" in again.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name a method to write, or a bench"),
        (["--bench", "mine"], "name it with --data FOLDER"),
        (["mine", "--bench", "mine", "--data", "x"], "NAME is for a method"),
        (["mine", "--data", "x"], "--data is for a bench"),
        (["--bench", "mine", "--data", "nowhere"], "there is no folder nowhere"),
        (["--bench", "../mine", "--data", "x"], "cannot name a bench"),
    ],
)
def test_a_bench_needs_a_name_and_data(call, tmp_path, words, said):
    done = call("new", *words, "--folder", tmp_path / "inside")
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "inside").exists()
