"""The method file with the best values: everything else stays, and the result resolves to what was run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kdflow.errors import UsageError
from kdflow.search.write import filled, variant_text, write_best
from kdflow.spec.resolve import load_method, parse_method

CONTEXT = {"bench": "tiny", "student.family": "two-stage", "teacher.family": "two-stage"}

TEXT = """\
# First line of the header.
# Second line.
kdflow: 1
method: sample
nodes:
  aligned: {op: adapter.conv, features: student.neck, like: teacher.neck}
terms:
  neck: {loss: loss.squared_error, student: aligned, teacher: teacher.neck, weight: 3.0}   # a remark
  again: {like: neck, reduce.floor: 2}
  own: {like: neck, weight: 5.0}
"""


def fill(text: str, values: dict[str, Any]) -> str:
    return filled(parse_method(text), text, values, CONTEXT, {}, "found in a test")


def test_value_is_replaced_where_it_stands_and_comments_stay() -> None:
    new = fill(TEXT, {"terms.own.weight": 0.5})
    assert new == TEXT.replace("weight: 5.0", "weight: 0.5").replace("# Second line.\n", "# Second line.\n# found in a test\n")


def test_copies_of_a_changed_term_keep_their_own_value() -> None:
    new = fill(TEXT, {"terms.neck.weight": 7.25})
    found = parse_method(new).resolve(CONTEXT)
    assert {name: term.weight for name, term in found.terms.items()} == {"neck": 7.25, "again": 3.0, "own": 5.0}
    assert "weight: 7.25}   # a remark" in new


def test_value_that_a_variant_overrides_becomes_a_variant_of_the_bench() -> None:
    text = TEXT + "variants:\n  - {when: {bench: tiny}, set: {terms.own.weight: 9.0}}\n"
    found = parse_method(fill(text, {"terms.own.weight": 2.0}))
    assert found.resolve(CONTEXT).terms["own"].weight == 2.0
    assert len(found.document.data["variants"]) == 2


def test_flow_list_of_variants_is_extended() -> None:
    for variants in ("variants: [{when: {bench: tiny}, set: {terms.own.weight: 9.0}}]\n", "variants: []\n"):
        found = parse_method(fill(TEXT + variants, {"terms.again.weight": 2.5}))
        assert found.resolve(CONTEXT).terms["again"].weight == 2.5


def test_dotted_keys_and_values_that_are_not_written_are_filled_in() -> None:
    found = parse_method(fill(TEXT, {"terms.again.reduce.floor": 4, "terms.again.weight": 1.5})).resolve(CONTEXT)
    assert found.terms["again"].reduce.floor == 4
    assert found.terms["again"].weight == 1.5


def test_values_of_the_bench_are_named_in_the_header() -> None:
    assert "# of the bench: --set recipe.optimizer.lr=0.02\n" in fill(TEXT, {"recipe.optimizer.lr": 0.02})


@pytest.mark.parametrize("slug", ["defeat", "pkd", "fgd", "crosskd-pkd"])
def test_methods_that_come_with_kdflow_can_be_written(slug: str, tmp_path: Path) -> None:
    from kdflow.experiment.find import find_method

    spec = load_method(find_method(slug), find_method)
    paths = [path for path in spec.resolve(CONTEXT).search if path.startswith("terms.")]
    values = {path: 1.25 + index for index, path in enumerate(paths)}
    file = write_best(tmp_path / "best.yaml", spec, values, CONTEXT, {}, "found in a test")
    found = load_method(file, find_method)
    assert found.resolve(CONTEXT).terms == spec.resolve(CONTEXT, values).terms
    header = find_method(slug).read_text().split("kdflow: 1")[0]
    assert file.read_text().startswith(header)


def test_method_that_was_not_read_from_a_file_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not read from a file"):
        write_best(tmp_path / "x.yaml", parse_method(TEXT), {}, CONTEXT, {}, "")


def test_variant_text_is_yaml() -> None:
    (entry,) = yaml.safe_load(variant_text("tiny", {"terms.a.weight": 1.5}, 'a "reason": yes'))
    assert entry == {"when": {"bench": "tiny"}, "set": {"terms.a.weight": 1.5}, "reason": 'a "reason": yes'}
