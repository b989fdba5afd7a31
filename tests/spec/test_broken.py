"""Every broken spec is refused before data or weights are read: right line, right words, and nothing else is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdflow.cli.check import verdict_of
from tests.spec.corpus import bench_for, expected_of, files


def test_corpus_is_large():
    assert len(files()) >= 100


@pytest.mark.parametrize("path", files(), ids=lambda path: path.stem)
def test_broken_spec_is_refused_at_the_right_line(path: Path, monkeypatch):
    monkeypatch.setattr("kdflow.data.shapes.drawn_folder", _never)
    monkeypatch.setattr("torch.load", _never)
    expected = expected_of(path)
    assert expected, "the file must say what is expected"
    faults = verdict_of(str(path), bench_for(path), {}).faults
    for wanted in expected:
        found = [f for f in faults if wanted.text in f.problem]
        assert found, f"nothing says {wanted.text!r}: {[str(f) for f in faults]}"
        assert wanted.line in {f.line for f in found}, f"expected line {wanted.line}: {[str(f) for f in found]}"
        assert all(f.column > 0 for f in found)
    strays = [str(f) for f in faults if not any(w.text in f.problem and w.line == f.line for w in expected)]
    assert not strays


def _never(*_arguments, **_options):
    raise AssertionError("data and weights are not read by a check")
