"""``kdflow new``."""

from __future__ import annotations

import pytest


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
