"""The protocol with runs that train nothing, and once with runs that do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdflow.compare.content import File
from kdflow.compare.entries import PLAIN, Protocol, lineup_of
from kdflow.compare.verify import faults_of, read_file, warnings_of
from kdflow.compare.work import compare
from kdflow.errors import SpecError, UsageError
from kdflow.experiment.session import Preview
from kdflow.experiment.sweep import Job, JobResult
from tests.compare import drive
from tests.compare.conftest import no_cost, stand_in
from tests.paths import BENCH

ROOT = Path(__file__).parents[2]
Compared = Callable[..., tuple[File, Path]]
NAMES = [PLAIN, "fitnet", "longer training", "ema", "label smoothing", "fitnet, random teacher"]


def test_everyone_has_the_same_budget_and_the_verdict_follows(once: tuple[File, Path]) -> None:
    file, place = once
    entries = file.comparison.entries
    assert [entry.name for entry in entries] == NAMES
    assert [len(entry.trials) for entry in entries] == [3, 3, 3, 3, 3, 0]
    rates = {tuple(t.values["recipe.optimizer.lr"] for t in entry.trials) for entry in entries if entry.trials}
    assert len(rates) == 1  # every entry is tuned at the same learning rates
    assert all(e.values["recipe.optimizer.lr"] == max(*rates) for e in entries)  # the stand-in likes it large
    assert file.comparison.entry("fitnet, random teacher").values == file.comparison.entry("fitnet").values
    by_name = {row.entry: row for row in file.comparison.verdicts}
    assert by_name["fitnet"].mean == pytest.approx(2.1)
    assert by_name["fitnet"].verdict == "better"
    assert by_name["fitnet, random teacher"].verdict == "undecided"
    assert by_name["fitnet"].adjusted == by_name["fitnet"].p  # one method: nothing to correct for
    assert by_name["ema"].family == "controls against the plain student"
    assert read_file(place) == file
    assert faults_of(file) == []
    edges = [f"{name}: its learning rate, 0.03138, is the largest that was tried" for name in NAMES[:-1]]
    assert warnings_of(file) == edges


def test_audit_tells_what_was_not_the_same(once: tuple[File, Path], compared: Compared) -> None:
    file, _ = once
    audit = {row.what: row for row in file.comparison.audit}
    assert all(row.same for row in audit.values())
    assert audit["images seen"].meant == {"longer training": "sees 2 times the images of the others"}
    assert audit["teacher"].meant.keys() == {PLAIN, "longer training", "ema", "label smoothing", "fitnet, random teacher"}

    def other_start(job: Job, result: JobResult) -> JobResult:
        changed = {**result.seen, "student": "another"} if "fitnet" in job.spec and job.seed == 1 else result.seen
        return replace(result, seen=changed)

    file, _ = compared(runner=stand_in(other_start), name="unfair")
    assert [row.what for row in file.comparison.audit if not row.same] == ["first weights of the student"]
    assert "not every entry had the same first weights of the student" in warnings_of(file)
    file, _ = compared(runner=stand_in(lambda _, result: replace(result, seen={})), name="unseen")
    assert not any(row.same for row in file.comparison.audit)


def test_failures_are_kept_and_run_again_by_resume(compared: Compared) -> None:
    broken = True

    def failing(job: Job, result: JobResult) -> JobResult:
        fails = broken and job.trial is None and job.label == "fitnet" and job.seed == 2
        return replace(result, status="failed", metrics={}, reason="kd/hint: not finite") if fails else result

    file, _ = compared(runner=stand_in(failing))
    (row,) = [row for row in file.comparison.verdicts if row.entry == "fitnet"]
    assert row.seeds == (0, 1)
    assert file.comparison.entry("fitnet").runs[2].failure == "kd/hint: not finite"
    assert faults_of(file) == []
    assert any("1 of 3 runs did not finish: kd/hint: not finite" in words for words in warnings_of(file))
    with pytest.raises(UsageError, match="--resume goes on with it"):
        compared()
    assert compared(join=True)[0].comparison == file.comparison  # who joins takes what there is
    broken = False
    file, _ = compared(runner=stand_in(failing), resume=True)
    assert file.comparison.entry("fitnet").runs[2].failure == ""


def test_entry_whose_trials_all_fail_has_no_runs(compared: Compared) -> None:
    def failing(job: Job, result: JobResult) -> JobResult:
        return replace(result, status="failed", validation={}, reason="out of memory") if "fitnet" in job.spec else result

    file, _ = compared(runner=stand_in(failing))
    entry = file.comparison.entry("fitnet")
    assert (entry.chosen, entry.runs) == (None, ())
    assert {row.verdict for row in file.comparison.verdicts if row.entry.startswith("fitnet")} == {"undecided"}
    assert faults_of(file) == []


def test_named_method_is_compared_with_too(compared: Compared, tmp_path: Path) -> None:
    text = (ROOT / "specs" / "fitnet.yaml").read_text().replace("method: fitnet", "method: fitnet-twice")
    own = tmp_path / "fitnet-twice.yaml"
    own.write_text(text)
    protocol = Protocol(("fitnet", str(own)), str(BENCH), budget=1, against=("fitnet",), controls=())
    file, _ = compared(protocol)
    rows = [(row.entry, row.against, row.verdict) for row in file.comparison.verdicts]
    assert rows == [
        ("fitnet", PLAIN, "better"), ("fitnet-twice", PLAIN, "better"), ("fitnet-twice", "fitnet", "undecided"),
    ]
    assert faults_of(file) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("fitnett",)}, "fitnet"),
        ({"methods": ("baseline",)}, "takes part anyway"),
        ({"methods": ("fitnet", "fitnet")}, "two names"),
        ({"methods": ("crosskd",)}, "none of these methods fits"),
        ({"against": ("pkd",)}, "no such method takes part"),
        ({"controls": ("emma",)}, "no control"),
        ({"overrides": {"recipe.optimizer.lr": 1}}, "it is tuned"),
        ({"overrides": {"terms.hint.weight": 1}}, "for all entries"),
        ({"seeds": 1001}, "at most 1000"),
    ],
)
def test_mistakes_are_told_before_anything_runs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((UsageError, SpecError), match=message):
        lineup_of(replace(Protocol(("fitnet",), str(BENCH)), **changes), Preview("cpu"))


def test_controls_and_methods_that_do_not_fit_are_left_out_with_the_reason(home: Path) -> None:
    bench = str(BENCH.with_name("tiny-retinanet.yaml"))
    protocol = Protocol(("fitnet", "dkd"), bench, overrides={"recipe.ema": 0.9}, budget=1)
    found = lineup_of(protocol, Preview("cpu"))
    assert [entry.name for entry in found.entries] == [PLAIN, "fitnet", "longer training", "fitnet, random teacher"]
    assert found.left_out.keys() == {"dkd", "ema", "label smoothing"}
    assert "moving average" in found.left_out["ema"]


def test_calibrated_methods_are_tuned_over_the_share_that_their_terms_have(home: Path) -> None:
    protocol = Protocol(("fitnet", "defeat"), str(BENCH), budget=2, controls=(), overrides={"recipe.calibrate": True})
    plain, *methods = lineup_of(protocol, Preview("cpu")).entries
    assert set(plain.space.ranges) == {"recipe.optimizer.lr"}
    for entry in methods:
        assert set(entry.space.ranges) == {"recipe.optimizer.lr", "recipe.calibrate.share"}
        assert entry.space.declared["recipe.calibrate.share"] == 0.5


def test_killed_worker_is_joined_and_the_file_is_the_same(home: Path, any_teacher: None, tmp_path: Path) -> None:
    once, place = compare(drive.PROTOCOL, drive.request(tmp_path / "once"), lambda _: None)
    words = [sys.executable, "-m", "tests.compare.drive", str(tmp_path / "killed"), "6"]
    killed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "killed" / "comparisons").exists()
    said: list[str] = []
    request = drive.request(tmp_path / "killed", join=True)
    again, other = compare(drive.PROTOCOL, request, said.append, costs=no_cost)
    assert any("its worker died" in line for line in said)
    first, second = (json.loads(path.read_text()) for path in (place, other))
    assert first["comparison"] == second["comparison"]
    assert first["content"] == second["content"]
    assert first["costs"].keys() == second["costs"].keys() == {PLAIN, "fitnet"}
    assert all(cost["step_ms"] > 0 and cost["memory_mib"] > 0 for cost in first["costs"].values())
    assert faults_of(again) == []
    assert all(row.same for row in once.comparison.audit)
