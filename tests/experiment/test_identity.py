"""One identity: what has an effect makes another run, what has none does not."""

from __future__ import annotations

import ast
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kdflow.experiment import hashes
from kdflow.experiment.hashes import code_hash, detector_code, syntax_of
from kdflow.experiment.identity import NO_EFFECT, Identity, identify, teacher_identity
from kdflow.experiment.reading import read_method
from kdflow.experiment.result import RunResult
from kdflow.experiment.session import Preview, open_session
from kdflow.experiment.setup import Setting, prepare
from kdflow.experiment.sweep import plan_jobs, run_jobs
from tests.data.conftest import save_image
from tests.paths import BENCH


def setting(method: str = "fitnet", bench: str | Path = BENCH, **overrides: Any) -> Setting:
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    return prepare(read_method(method), bench, overrides=changes)


def known(**overrides: Any) -> Identity:
    return identify(setting(**overrides), "data", threads=1)


def test_fields_without_effect_exist() -> None:
    for model, names in NO_EFFECT.items():
        assert names <= set(model.model_fields), model


@pytest.mark.parametrize(
    "change",
    [{"recipe__log_every": 5}, {"recipe__checkpoint_every": 9}, {"data__workers": 3}, {"data__resident": True}],
)
def test_logging_and_loader_processes_have_no_effect(change: dict[str, Any]) -> None:
    plain, changed = known(), known(**change)
    assert (changed.run, changed.definition, changed.bench, changed.stream) == (
        plain.run, plain.definition, plain.bench, plain.stream,
    )


def test_titles_have_no_effect(tmp_path: Path) -> None:
    bench = tmp_path / "tiny.yaml"
    bench.write_text(BENCH.read_text().replace("title: Faster", "title: Another Faster"))
    assert identify(setting(bench=bench), "data").run == identify(setting(), "data").run


@pytest.mark.parametrize(
    "change", [{"recipe__steps": 3}, {"recipe__optimizer.lr": 0.5}, {"terms__hint.weight": 2}, {"data__flip": 0.1},
                {"data__augment": [{"name": "scale"}]}]
)
def test_what_changes_a_result_makes_another_definition(change: dict[str, Any]) -> None:
    assert known(**change).definition != known().definition


def test_data_seed_threads_and_processes_make_another_run() -> None:
    one = setting()
    plain = identify(one, "data", threads=1)
    assert identify(one, "other", threads=1).definition != plain.definition
    assert identify(one, "other", threads=1).bench != plain.bench
    for other in (identify(replace(one, seed=1), "data", 1), identify(one, "data", 2), identify(one, "data", 1, 2)):
        assert other.run != plain.run
        assert (other.definition, other.bench) == (plain.definition, plain.bench)
    assert identify(replace(one, seed=1), "data", 1).run == plain.with_seed(1).run


def test_weights_count_by_their_content_wherever_they_lie(tmp_path: Path) -> None:
    one = setting()
    state = {k: v.clone() for k, v in one.detectors["teacher"].model.state_dict().items()}
    places = [tmp_path / "a.pt", tmp_path / "b.pt"]
    torch.save(state, places[0])
    shutil.copy(places[0], places[1])

    def of(place: Path) -> tuple[str, str]:
        spec = one.bench.all_teachers["teacher"].model_copy(update={"weights": str(place), "recipe": None})
        changed = replace(one, bench=one.bench.model_copy(update={"teacher": spec}))
        return teacher_identity(spec, one.detectors["teacher"], one.bench, "data"), identify(changed, "data").run

    before = of(places[0])
    assert of(places[1]) == before
    next(iter(state.values())).add_(1)
    torch.save(state, places[1])
    os.utime(places[1], (1, 1))
    assert of(places[1])[0] != before[0]
    assert of(places[1])[1] != before[1]


def test_comments_docstrings_and_layout_are_no_code() -> None:
    one = 'def f(x):\n    """Words."""\n    return x + 1\n'
    two = '"""A module."""\n# remark\ndef f(x):\n    return (x +\n            1)\n'
    three = "def f(x):\n    return x + 2\n"
    assert syntax_of(ast.parse(one)) == syntax_of(ast.parse(two)) != syntax_of(ast.parse(three))


def test_only_what_a_family_imports_of_detectors_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files: dict[str, Path] = {}
    find = hashes._file.__wrapped__

    def copied(module: str) -> Path | None:
        source = find(module)
        if source is None or not module.startswith("kdflow."):
            return source
        files.setdefault(module, tmp_path / f"{module}.py")
        if not files[module].exists():
            files[module].write_text(source.read_text())
        return files[module]

    def now() -> tuple[str, str]:
        for cached in (hashes._code_hash, hashes._code):
            cached.cache_clear()
        return tuple(detector_code(name) for name in ("fcos", "faster-rcnn"))

    monkeypatch.setattr(hashes, "_file", copied)
    try:
        before = now()
        assert not any(name.startswith(("kdflow.ports", "kdflow.registry", "kdflow.kinds")) for name in files)
        module = files["kdflow.detectors.fcos"]
        text = module.read_text()
        module.write_text("# remark\n" + text)
        assert now() == before
        module.write_text(text + "\nCHANGED = 1\n")
        after = now()
        assert after[0] != before[0]
        assert after[1] == before[1]
    finally:
        for cached in (hashes._code_hash, hashes._code):
            cached.cache_clear()


def test_a_plugins_code_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_op_module.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    one = code_hash(["own_op_module"])
    (tmp_path / "own_op_module.py").write_text("VALUE = 2\n")
    for cached in (hashes._code_hash, hashes._code):
        cached.cache_clear()
    assert code_hash(["own_op_module"]) != one


def coco_bench(tmp_path: Path) -> Path:
    """The tiny bench on a COCO folder of its own."""
    root = tmp_path / "coco"
    for split in ("train", "val"):
        for number in (1, 2):
            save_image(root / split / f"{number}.png", 64, 64, seed=number)
        write_annotations(root, split, [4, 4, 20, 20])
    document = yaml.safe_load(BENCH.read_text())
    document["data"] = {"format": "coco", "root": str(root), "size": 64, "fixed": True, "workers": 0}
    bench = tmp_path / "own.yaml"
    bench.write_text(yaml.safe_dump({**document, "bench": "own"}, sort_keys=False))
    return bench


def write_annotations(root: Path, split: str, box: list[float]) -> None:
    rows = [{"id": n, "file_name": f"{n}.png", "height": 64, "width": 64} for n in (1, 2)]
    objects = [{"id": n, "image_id": n, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0} for n in (1, 2)]
    document = {"images": rows, "annotations": objects, "categories": [{"id": 1, "name": "thing"}]}
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))


def test_a_sweep_is_run_again_when_the_annotations_were_edited(home: Path, tmp_path: Path) -> None:
    bench, calls = coco_bench(tmp_path), list[int]()

    def runner(spec: str, *, seed: int, output: Path, **_: Any) -> RunResult:
        calls.append(seed)
        folder = output / f"run{len(calls)}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text("{}")
        return RunResult(spec, "own", seed, None, "finished", {"AP": 1.0}, {}, 1.0, 0, (), (), None, str(folder))

    def sweep() -> list[bool]:
        with open_session("cpu") as session:
            jobs = plan_jobs(["fitnet"], [str(bench)], range(2), {}, session=session)
            done = run_jobs(jobs, session, tmp_path / "runs", resume=True, notify=lambda _: None, runner=runner)
            return [result.reused for result in done]

    assert sweep() == [False, False]
    assert sweep() == [True, True]
    write_annotations(tmp_path / "coco", "train", [4, 4, 30, 30])
    assert sweep() == [False, False]
    assert calls == [0, 1, 0, 1]


def test_half_a_sweep_record_counts_as_absent(home: Path, tmp_path: Path) -> None:
    from kdflow.experiment.sweep import record_of

    (job,) = plan_jobs(["baseline"], [str(BENCH)], [0], {})
    file = tmp_path / "sweeps" / f"{job.hash}.json"
    file.parent.mkdir()
    for text in ('{"status": "fini', "{}", "[]", ""):
        file.write_text(text)
        assert record_of(job, tmp_path) is None


def test_the_hash_of_a_job_is_that_of_its_run_and_seeds_are_not_compiled_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(
        "kdflow.experiment.sweep.prepare", lambda *words, **more: (compiled.append(words), prepare(*words, **more))[1]
    )
    jobs = plan_jobs(["fitnet"], [str(BENCH)], range(50), {"terms.hint.weight": [1.0, 2.0]})
    assert len({job.hash for job in jobs}) == 100
    assert len(compiled) == 2
    looked = Preview("cpu").identify(prepare(read_method("fitnet"), BENCH, overrides={"terms.hint.weight": 2.0}, seed=7))
    assert jobs[57].hash == looked.run
    assert jobs[57].stream == looked.stream


def test_a_backbone_s_weights_count_by_their_content_in_every_identity(tmp_path: Path) -> None:
    one = setting()
    spec = one.bench.all_teachers["teacher"]

    def of(name: str, content: bytes) -> tuple[str, ...]:
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (len(content), 1))
        named = spec.model_copy(update={"pretrained_backbone": str(tmp_path / name)})
        student = one.bench.student.model_copy(update={"pretrained_backbone": str(tmp_path / name)})
        changed = replace(one, bench=one.bench.model_copy(update={"teacher": named, "student": student}))
        found = identify(changed, "data")
        return teacher_identity(named, one.detectors["teacher"], one.bench, "data"), found.run, found.bench

    first = of("a.pt", b"one")
    assert of("b.pt", b"one") == first
    assert not set(of("a.pt", b"other")) & set(first)


def test_data_count_by_their_content_and_not_by_their_place() -> None:
    def of(root: str, data: str) -> Identity:
        one = setting()
        spec = one.bench.data.model_copy(update={"root": root})
        return identify(replace(one, bench=one.bench.model_copy(update={"data": spec})), data)

    assert of("/here", "data").run == of("/there", "data").run != of("/here", "other").run
    assert of("/here", "data").stream != of("/there", "data").stream
