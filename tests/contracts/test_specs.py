"""Every spec that comes with kdflow: compiles on its home bench, reads like a paper, and ports where the ports are."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdflow.experiment.build import canvas_of
from kdflow.experiment.find import find_bench
from kdflow.experiment.matrix import as_markdown, from_markdown, portability
from kdflow.experiment.reading import is_bench_path, read_method
from kdflow.experiment.setup import Setting, prepare
from kdflow.ports import Batch
from kdflow.spec.resolve import load_bench

SPECS = sorted((Path(__file__).parents[2] / "specs").glob("*.yaml"))
BENCHES = sorted((Path(__file__).parents[2] / "specs" / "benches").glob("*.yaml"))
LONGEST = {"defeat": 30, "fgd": 45}


def test_specs_and_benches_were_found() -> None:
    assert len(SPECS) >= 15
    assert len(BENCHES) >= 10


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_spec_compiles_and_steps_on_its_home_bench(path: Path) -> None:
    setting = prepare(read_method(path))
    assert setting.plan.report.remarks == ()
    distilled = [t for t in setting.plan.terms if t.is_distillation]
    assert bool(distilled) == (path.stem != "baseline")
    assert all(t.nodes for t in distilled)
    assert setting.method.method == path.stem
    step_is_finite_and_reaches_the_student(setting)


def step_is_finite_and_reaches_the_student(setting: Setting) -> None:
    """One real step on random images; preparations run first, on the same batch."""
    plan, batch = setting.plan, some_batch(setting)
    for preparation in plan.preparations:
        preparation.run(plan, [batch])
    plan.advance(1, 100, 10)
    outcome = plan(batch)
    assert all(torch.isfinite(value).all() for value in outcome.raw.values()), outcome.raw
    outcome.total.backward()
    reached = [p.grad for p in plan.student.parameters() if p.grad is not None]
    assert reached
    assert all(torch.isfinite(grad).all() for grad in reached)
    assert all(p.grad is None for teacher in plan.teachers.values() for p in teacher.parameters())


def some_batch(setting: Setting) -> Batch:
    """Two random images with three boxes each, as large as the bench's."""
    torch.manual_seed(0)
    side = canvas_of(setting.bench, setting.detectors)[0]
    corners = torch.rand(2, 3, 2) * side / 2
    boxes = torch.cat([corners, corners + side / 4 + torch.rand(2, 3, 2) * side / 5], dim=-1)
    labels = [torch.randint(len(setting.classes), (3,)) for _ in range(2)]
    return Batch(torch.rand(2, 3, side, side), [(side, side)] * 2, list(boxes), labels)


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_spec_is_no_longer_than_a_page(path: Path) -> None:
    text = path.read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    body = lines[: next((i for i, line in enumerate(lines) if line.startswith("variants:")), len(lines))]
    assert len(body) <= LONGEST.get(path.stem, 60)
    assert len(text.splitlines()) <= 60 or re.search("^# Long, since ", text, re.MULTILINE), "say in the header why"


@pytest.mark.parametrize("path", BENCHES, ids=lambda p: p.stem)
def test_bench_file_is_well_formed_and_named_after_its_file(path: Path) -> None:
    bench = load_bench(path)
    assert bench.bench == path.stem
    assert all(t.weights or t.recipe or t.detector == "features" for t in bench.all_teachers.values())


def test_search_ranges_name_things_that_exist() -> None:
    for path in SPECS:
        method = read_method(path).resolve()
        for dotted in filter(lambda path: not is_bench_path(path), method.search):
            section, name = dotted.split(".")[:2]
            assert name in getattr(method, section), f"{path.name}: {dotted}"


def test_one_spec_runs_on_detectors_of_every_family_unchanged() -> None:
    benches = ["shapes-faster-rcnn", "shapes-retinanet", "shapes-rt-detr"]
    cells = portability(["fitnet", "dkd"], benches)
    assert [c.runs for c in cells] == [True, True, True, True, False, False]
    assert cells[0].nodes == ("cnn/neck",)
    assert cells[2].nodes == ("transformer/feature",)
    table = as_markdown(cells)
    assert "| fitnet | runs | runs | runs |" in table
    assert "no port" in table or "no call" in table
    assert from_markdown(table) == [replace(cell, nodes=()) for cell in cells]
    fewer = from_markdown(as_markdown(cells[:-1]))
    assert fewer == from_markdown(table)[:-1], "a pair that was not tried has no cell"


def test_home_benches_exist() -> None:
    assert all(find_bench(str(read_method(path).resolve().bench)).is_file() for path in SPECS)
