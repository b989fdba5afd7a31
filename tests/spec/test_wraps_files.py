"""Files that a method names are found beside it, whatever the working directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdflow.errors import SpecError, UsageError
from kdflow.experiment.find import find_method
from kdflow.experiment.reading import read_method
from kdflow.operation import OPS
from kdflow.plugins import load_plugin
from kdflow.spec.resolve import parse_method

PLUGIN = '''from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("transform.{name}", gives=like("values"))
def {name}(values: AnyTensor) -> AnyTensor:
    """The value itself."""
    return values
'''
BASE = """kdflow: 1
method: base
plugins: [mine.py]
nodes: {a: {op: transform.ofbase, values: student.neck}}
terms: {one: {loss: loss.l1, student: a, teacher: student.neck}}
"""


def test_a_wrapped_file_and_its_plugins_lie_beside_the_file_that_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("own", "base", "elsewhere"):
        (tmp_path / folder).mkdir()
    (tmp_path / "base" / "base.yaml").write_text(BASE)
    (tmp_path / "base" / "mine.py").write_text(PLUGIN.format(name="ofbase"))
    (tmp_path / "own" / "mine.py").write_text(PLUGIN.format(name="ofown"))
    (tmp_path / "own" / "own.yaml").write_text(
        "kdflow: 1\nmethod: own\nwraps: ../base/base.yaml\nplugins: [mine.py]\nterms: {one: {weight: 2}}\n"
    )
    monkeypatch.chdir(tmp_path / "elsewhere")
    method = read_method(tmp_path / "own" / "own.yaml").resolve()
    assert method.terms["one"].weight == 2
    assert method.plugins == ("../base/mine.py", "mine.py")
    assert {"transform.ofbase", "transform.ofown"} <= set(OPS)


def test_files_that_wrap_each_other_are_refused(tmp_path: Path) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{one}.yaml").write_text(f"kdflow: 1\nmethod: {one}\nwraps: {other}.yaml\n")
    with pytest.raises(SpecError, match="leads back to itself"):
        read_method(tmp_path / "a.yaml")


def test_a_wrapped_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kdflow: 1\nmethod: a\nwraps: gone.yaml\n")
    with pytest.raises(SpecError, match=r"a\.yaml:3:1  wraps: .*gone\.yaml"):
        read_method(tmp_path / "a.yaml")


@pytest.mark.parametrize("line", ["import sys; sys.exit(0)", "raise SystemExit", "raise KeyboardInterrupt('no')", "1 / 0"])
def test_a_plugin_that_leaves_is_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(line)
    with pytest.raises(UsageError, match="cannot be imported"):
        load_plugin(tmp_path / "mine.py")


@pytest.mark.parametrize("path", ["wraps", "bench", "plugins", "variants", "kdflow", "method", "rewrite", "variants.0.set"])
def test_what_is_read_before_anything_is_set_cannot_be_set(path: str) -> None:
    spec = parse_method("kdflow: 1\nmethod: a\n", find=find_method)
    with pytest.raises(UsageError, match=f'"{path}" cannot be set'):
        spec.resolve(overrides={path: "pad"})
