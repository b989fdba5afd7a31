"""Whatever a file holds, it is read or refused with file and line."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdflow.errors import KdflowError, SpecError
from kdflow.spec.load import MAX_BYTES, parse, read
from kdflow.spec.paths import parse_overrides
from kdflow.spec.resolve import bench_of, parse_method

METHOD = Path(__file__).parents[2] / "specs" / "fgd.yaml"
BENCH = Path(__file__).parents[2] / "specs" / "benches" / "shapes-fcos.yaml"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: !!int abc\n", 2, 'tag "tag:yaml.org,2002:int" is not allowed'),
        ("a: 1\nb: !!map 3\n", 2, "is not allowed"),
        ("a: 1\nb: " + "9" * 5000, 2, "a number of 5000 digits"),
        ("a: 1\nb: [1, " + "9" * 5000 + "]", 2, "a number of 5000 digits"),
        ('a: 1\nb: "\\ud800"\n', 2, "the character #xd800 is not allowed"),
        ('a: 1\nb: "x\\0y"\n', 2, "the character #x0000 is not allowed"),
        ('a: 1\n"\\e": 2\n', 2, "is not allowed in a key"),
        ("a: 1\nb: x\x07\n", 2, "the character #x0007 is not allowed"),
        ("a:\n\t- 1\n", 2, "cannot start any token"),
        ("a: &x 1\nb: *x\n", 1, "anchors and aliases"),
        ("a: " + "[" * 5000, 1, "nested deeper"),
    ],
)
def test_what_cannot_be_read_is_refused_at_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(SpecError) as error:
        parse(text, "x.yaml")
    (fault,) = error.value.faults
    assert (fault.file, fault.line) == ("x.yaml", line)
    assert words in fault.problem


@pytest.mark.parametrize(
    ("raw", "line", "words"),
    [
        (b"a: 1\nb: \xe4\n", 2, "not UTF-8 text (byte 8 is 0xe4)"),
        ("a: 1\n".encode("utf-16"), 1, "not UTF-8 text"),
        (b"# x\n" * MAX_BYTES, 1, "larger than"),
        (b"a: \x00", 1, "the character #x0000"),
    ],
)
def test_bytes_that_are_no_text_are_refused_at_their_line(raw: bytes, line: int, words: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(raw)
    with pytest.raises(SpecError) as error:
        read(file)
    assert error.value.faults[0].line == line
    assert words in error.value.faults[0].problem


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        read("a\0b.yaml")


@pytest.mark.parametrize("pair", ["a=1\nb: 2", "a=!!int x", "a=" + "9" * 5000, "a=[", "=3"])
def test_an_override_is_one_value(pair: str) -> None:
    with pytest.raises(KdflowError, match="--set"):
        parse_overrides([pair])


def loaded(text: str) -> None:
    """Both loaders; all that they may raise is a KdflowError."""
    for load in (lambda: parse_method(text), lambda: bench_of(parse(text))):
        with contextlib.suppress(KdflowError):
            load()


SETTINGS = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
WORDS = st.text(max_size=5) | st.sampled_from(["a", "{term}", "student.neck[9]", "like", "set", "when"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)


@SETTINGS
@given(st.binary(max_size=200))
def test_any_bytes_give_a_document_or_a_refusal(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(raw)
    with contextlib.suppress(SpecError):
        assert isinstance(read(file).data, dict)


@SETTINGS
@given(st.sampled_from([METHOD, BENCH]), st.integers(0, 10**6), st.integers(0, 30), st.text(max_size=6))
def test_a_file_with_a_piece_replaced_is_loaded_or_refused(path: Path, at: int, length: int, piece: str) -> None:
    text = path.read_text()
    at %= len(text)
    loaded(text[:at] + piece + text[at + length :])


@SETTINGS
@given(st.sampled_from([METHOD, BENCH]), st.data())
def test_any_value_anywhere_is_loaded_or_refused(path: Path, data: st.DataObject) -> None:
    document = read(path)
    holder: object = document.data
    while isinstance(holder, dict) and holder:
        key = data.draw(st.sampled_from(sorted(holder)))
        if not isinstance(holder[key], dict) or data.draw(st.booleans()):
            holder[key] = data.draw(VALUES)
            break
        holder = holder[key]
    loaded(json.dumps(document.data))
