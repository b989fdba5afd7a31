"""What a run has written of itself is a spec that repeats it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kdflow.cli.main import main
from kdflow.errors import SpecError
from kdflow.experiment.filled import content_of
from kdflow.experiment.find import find_method, names_in, seed_of
from kdflow.experiment.reading import read_bench
from kdflow.experiment.run import run
from kdflow.files import read_json
from kdflow.resources import specs_folder
from kdflow.spec.bench import Bench
from kdflow.spec.resolve import load_bench, load_method
from tests.paths import BENCH


def test_a_run_is_repeated_by_its_run_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    changes = {"recipe.batch": 1, "data.flip": 0.25}
    first = run("baseline", bench=BENCH, seed=3, overrides=changes, output=tmp_path / "a", notify=lambda _: None)
    file = Path(first.folder) / "run.yaml"
    assert seed_of(file) == 3
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(file), "--output", str(tmp_path / "b")]) == 0
    (again,) = (tmp_path / "b").glob("*/*/result.json")
    found = read_json(again)
    assert isinstance(found, dict)
    assert again.parent.name == Path(first.folder).name
    assert (found["run_hash"], found["metrics"]) == (first.run_hash, dict(first.metrics))


def written(file: Path, method: object, bench: Bench) -> Path:
    file.write_text(yaml.safe_dump({"method": method, "bench": bench.model_dump(mode="json"), "seed": 1}))
    return file


@pytest.mark.parametrize("slug", names_in(specs_folder()))
def test_every_filled_method_can_be_read_again(slug: str, tmp_path: Path):
    method = load_method(find_method(slug), lambda name: find_method(name)).resolve()
    bench = load_bench(BENCH)
    file = written(tmp_path / "run.yaml", content_of(method), bench)
    again = load_method(file, lambda name: find_method(name)).resolve()
    left_out = {"variants", "wraps", "constants", "search"}
    assert again.model_dump(exclude=left_out) == method.model_dump(exclude=left_out)
    assert read_bench(file)[0] == bench


def test_faults_stand_at_their_lines(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("method: {kdflow: 1, method: x,\n  terms: 3}\nbench: {kdflow: 1,\n  bench: b, data: {}}\n")
    with pytest.raises(SpecError) as caught:
        load_method(file)
    assert {(fault.line, fault.path) for fault in caught.value.faults} == {(2, "terms")}
    with pytest.raises(SpecError) as caught:
        load_bench(file)
    assert {fault.line for fault in caught.value.faults} >= {4}
