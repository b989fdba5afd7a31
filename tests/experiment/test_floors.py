"""Three families train to the floors of their benches, in full length."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from benchmarks import floors
from benchmarks.floors import PAGES, FloorVerdict, check_floors, drawn_benches, state, student_key, suggestion, write
from kdflow.data.formats import open_data
from kdflow.engine.evaluate import judge
from kdflow.experiment.find import find_bench
from kdflow.experiment.session import open_session
from kdflow.spec.bench import Bench, Floor
from kdflow.spec.load import read
from kdflow.spec.resolve import bench_of

THREE_FAMILIES = ("shapes-fcos", "shapes-gfl", "shapes-rt-detr")


def bench(name: str) -> Bench:
    return bench_of(read(find_bench(name)), {})


def reaching(value: float) -> SimpleNamespace:
    return SimpleNamespace(metrics={"AP50": value}, validation={"AP50": value})


@pytest.mark.parametrize("name", THREE_FAMILIES)
def test_plain_student_reaches_the_floor_and_leaves_with_its_ap(name: str, home: Path, tmp_path: Path) -> None:
    (verdict,) = check_floors([name], output=tmp_path)
    assert verdict.passed, verdict.reason
    assert exported_ap50(bench(name), tmp_path) == pytest.approx(verdict.AP50[0], abs=0.1)


def exported_ap50(own: Bench, output: Path) -> float:
    """AP50 on the test split of what ``student.py`` finds in the image files, one by one."""
    (file,) = output.glob(f"{own.bench}/*/student.py")
    space: dict[str, Any] = {"__name__": "student", "__file__": str(file)}
    exec(file.read_text(encoding="utf-8"), space)
    model, split = space["load"](), open_data(own.data.format, own.data.options).splits["test"]
    categories = {category["name"]: category["id"] for category in split.coco["categories"]}
    table = split.annotations
    found: dict[int, list[dict[str, Any]]] = {}
    for image, path in zip(table.ids.tolist(), table.files):
        seen = space["predict"](path, model)
        rows = zip(seen["boxes"].tolist(), seen["scores"].tolist(), seen["names"])
        found[image] = [
            {"image_id": image, "category_id": categories[name], "bbox": [x, y, x2 - x, y2 - y], "score": score}
            for (x, y, x2, y2), score, name in rows
        ]
    return judge(found, split.coco, own.evaluation.max_detections)["AP50"]


MEASURED = {row["bench"]: row for row in json.loads((PAGES / "floors.json").read_text())}


@pytest.mark.parametrize("name", drawn_benches())
def test_floor_follows_from_what_was_measured(name: str) -> None:
    floor = bench(name).floor
    assert floor is not None, "python -m benchmarks.floors --write --state --benches " + name
    row = MEASURED[name]
    verdict = FloorVerdict(name, row["AP50"], None, passed=False)
    assert (floor.AP50, floor.seeds, floor.measured) == (suggestion(verdict), len(row["AP50"]), row["measured"])
    assert floor.AP50 > 5


def has_detecting_teacher(name: str) -> bool:
    teacher = bench(name).teacher
    return teacher is not None and teacher.detector != "features"


@pytest.mark.parametrize("name", [name for name in drawn_benches() if has_detecting_teacher(name)])
def test_teachers_were_measured_to_know_more_than_the_plain_student(name: str) -> None:
    row = MEASURED[name]
    assert row["teacher"] is not None, "python -m benchmarks.floors --teachers --seeds 0 --write --benches " + name
    assert row["teacher"] > row["validation"]["0"]


def test_a_teacher_without_a_head_has_no_value(home: Path, tmp_path: Path) -> None:
    document = yaml.safe_load(find_bench("shapes-features-to-rt-detr").read_text())
    document["data"]["images"] = {"train": 4, "val": 2, "test": 2}
    file = tmp_path / "few.yaml"
    file.write_text(yaml.safe_dump({**document, "bench": "few"}))
    with open_session("cpu") as session:
        assert floors._teacher(str(file), session) is None


def test_benches_that_differ_in_their_teacher_alone_share_their_students() -> None:
    one, other = bench("shapes-retinanet"), bench("shapes-fcos-to-retinanet")
    assert one.teacher != other.teacher
    assert student_key(one) == student_key(other)
    assert student_key(one) != student_key(bench("shapes-fcos"))


def test_a_student_below_its_floor_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(floors, "run", lambda *_, **__: reaching(1.25))
    (verdict,) = check_floors(["shapes-fcos"], seeds=2, output=tmp_path)
    assert not verdict.passed
    assert verdict.reason == "seed 0 reached 1.25, seed 1 reached 1.25"


def test_equal_students_are_trained_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trained: list[str] = []

    def run(_: str, *, bench: str, **__: object) -> SimpleNamespace:
        trained.append(bench)
        return reaching(99.0)

    monkeypatch.setattr(floors, "run", run)
    verdicts = check_floors(["shapes-retinanet", "shapes-fcos-to-retinanet"], output=tmp_path)
    assert [verdict.AP50 for verdict in verdicts] == [{0: 99.0}, {0: 99.0}]
    assert trained == ["shapes-retinanet"]


def test_a_floor_lies_below_the_least_measured_value() -> None:
    assert suggestion(FloorVerdict("any", {0: 40.0, 1: 30.0, 2: 36.0}, None, False)) == 25.5


def test_a_floor_from_few_seeds_lies_lower() -> None:
    assert suggestion(FloorVerdict("any", {0: 40.0, 1: 30.0}, None, False)) == 21.0


def test_a_bench_states_its_latest_floor_only(tmp_path: Path) -> None:
    file = tmp_path / "any.yaml"
    file.write_text(find_bench("shapes-fcos").read_text())
    for values in ({0: 40.0}, {0: 40.0, 1: 30.0, 2: 36.04}):
        state(FloorVerdict("any", values, None, False, threads=2, measured="2026-11-21"), file)
    assert file.read_text().endswith(
        "evaluation: {metric: AP, batch: 32}\n"
        "# The plain student's AP50 by seed (0, 1, 2): 40.0, 30.0, 36.0; 2 threads.\n"
        'floor: {AP50: 25.5, seeds: 3, measured: "2026-11-21"}\n'
    )
    assert file.read_text().count("floor:") == 1
    assert bench_of(read(file), {}).floor == Floor(AP50=25.5, seeds=3, measured="2026-11-21")


def test_new_measurements_replace_those_of_the_same_bench(tmp_path: Path) -> None:
    old, other = (FloorVerdict(name, {0: 20.0}, 17.0, True, validation={0: 21.0}) for name in ("one", "two"))
    write([old, other], tmp_path)
    write([FloorVerdict("one", {0: 30.0, 1: 28.0}, 17.0, True, validation={0: 31.0}, teacher=60.0)], tmp_path)
    lines = (tmp_path / "floors.md").read_text().splitlines()
    assert [line.split(" | ")[2] for line in lines if line.startswith(("| one", "| two"))] == ["30.0, 28.0", "20.0"]


def test_teachers_and_students_may_be_measured_apart(tmp_path: Path) -> None:
    def kept() -> dict[str, Any]:
        (row,) = json.loads((tmp_path / "floors.json").read_text())
        return {key: row[key] for key in ("AP50", "teacher", "measured")}

    write([FloorVerdict("one", {0: 20.0}, 17.0, True, measured="then")], tmp_path)
    write([FloorVerdict("one", {}, 17.0, True, teacher=60.0, measured="now")], tmp_path)
    assert kept() == {"AP50": {"0": 20.0}, "teacher": 60.0, "measured": "then"}
    write([FloorVerdict("one", {0: 30.0}, 17.0, True, measured="now")], tmp_path)
    assert kept() == {"AP50": {"0": 30.0}, "teacher": 60.0, "measured": "now"}
