from __future__ import annotations

import os
from pathlib import Path

import pytest

from kdflow.data import files
from kdflow.data.files import Folders, climbs, expand, read_json, read_lines
from kdflow.errors import DataError


def test_lines_end_in_every_usual_way_and_a_mark_of_utf_8_is_no_text(tmp_path: Path):
    file = tmp_path / "classes.txt"
    file.write_bytes("\ufeffcat\r\ndog\rhard\x0bhat\n".encode())
    assert read_lines(file) == ["cat", "dog", "hard\x0bhat", ""]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("Käfer\n".encode("latin-1"), r"line 1 is not UTF-8 \(byte 0xe4\)"),
        ("ok\nKäfer\n".encode("latin-1"), "line 2 is not UTF-8"),
        ("cat\n".encode("utf-16"), "it is written in UTF-16"),
        ("cat\n".encode("utf-32"), "it is written in UTF-32"),
        ("a\ncat\n".encode("utf-16-le"), "line 1 holds a NUL"),
    ],
)
def test_another_encoding_is_named_with_its_file(tmp_path: Path, content: bytes, words: str):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=rf"list\.txt  annotation file cannot be read: {words}"):
        read_lines(tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ('{"a": 1, "b": 2, "a": 3}', r'the key "a" stands twice in one object \(\{"a": 3, "b": 2\}\)'),
        ('{"a":\n ' + "9" * 5000 + "}", "line 2 holds a number of 5000 digits"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_json_that_cannot_be_taken_is_one_error(tmp_path: Path, text: str, words: str):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=rf"a\.json  annotation file cannot be read: .*{words}"):
        read_json(tmp_path / "a.json")


def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(DataError, match="no regular file"):
            read_lines(path)
    with pytest.raises(DataError, match="No such file"):
        read_lines(tmp_path / "nowhere")
    (tmp_path / "long").write_text("x" * 11)
    monkeypatch.setattr(files, "LIST_BYTES", 10)
    with pytest.raises(DataError, match="it has 11 bytes, at most 10 are read"):
        read_lines(tmp_path / "long")


def test_paths_that_cannot_exist_are_errors_of_the_user():
    with pytest.raises(DataError, match="no path"):
        expand("a\0b")
    with pytest.raises(DataError, match="no such home folder"):
        expand("~nobody-of-this-name/data")


def test_names_that_lead_out_of_a_folder():
    folder = Path("/data/train")
    inside = ("a.jpg", "sub/a.jpg", "sub/../a.jpg", "/data/train/a.jpg", "..a.jpg")
    outside = ("../a.jpg", "/etc/passwd", "sub/../../a.jpg", "..", "/data/training/a.jpg")
    assert [climbs(folder, name) for name in (*inside, *outside)] == [False] * 5 + [True] * 5


def test_links_are_followed_within_the_allowed_folders(tmp_path: Path):
    root = tmp_path / "root"
    (root / "images").mkdir(parents=True)
    (root / "more").mkdir()
    for file in (root / "images/a", root / "more/b", tmp_path / "secret"):
        file.write_text("x")
    (root / "images/inside").symlink_to(root / "more/b")
    (root / "images/out").symlink_to(tmp_path / "secret")
    (root / "images/folder").symlink_to(tmp_path)
    folders = Folders([str(root)])
    leaves = {
        name: folders.leaves(str(root / "images" / name)) for name in ("a", "inside", "out", "folder/secret", "none")
    }
    assert leaves == {"a": False, "inside": False, "out": True, "folder/secret": True, "none": False}
    assert not Folders().leaves(str(root / "images/out"))
    (tmp_path / "elsewhere").symlink_to(root)
    assert not Folders([str(tmp_path / "elsewhere")]).leaves(str(tmp_path / "elsewhere/images/a"))
