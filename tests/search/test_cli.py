"""The commands, called in this process; nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdflow.cli.main import main
from kdflow.cli.search import _report
from kdflow.experiment.sweep import JobResult
from kdflow.search.outcome import Best, Outcome
from tests.paths import BENCH


def test_dry_run_lists_jobs_with_status_cost_and_hash(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["sweep", "fitnet", "--bench", BENCH, "--set", "terms.hint.weight=1,2", "--output", tmp_path, "--dry-run"]
    assert main(list(map(str, words))) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0].split() == ["hash", "status", "steps", "images", "job"]
    assert "2 jobs, 0 faulty, 8 training images" in text
    assert main([*map(str, words), "--seeds", "2", "--json"]) == 0
    jobs = json.loads(capsys.readouterr().out)
    assert [job["status"] for job in jobs] == ["missing"] * 4
    assert not list(tmp_path.iterdir())


def test_dry_run_names_jobs_that_do_not_compile(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "fitnet", "--bench", str(BENCH), "--set", "terms.hnit.weight=1", "--dry-run"]) == 1
    said = capsys.readouterr()
    assert "1 faulty" in said.out
    assert "terms.hnit" in said.err


def test_sweep_ends_with_a_table_and_exit_code_1_when_a_job_failed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def runs(jobs, *_, **__):
        yield JobResult(jobs[0], "finished", {"AP": 31.0, "AP50": 50.0, "voc_ap50": 49.0})
        yield JobResult(jobs[1], "failed", reason="kd/hint: not finite at step 3")

    monkeypatch.setattr("kdflow.experiment.sweep.run_jobs", runs)
    words = ["sweep", "fitnet", "--bench", BENCH, "--seeds", "2", "--steps", "2", "--device", "cpu", "--output", tmp_path]
    assert main(list(map(str, words))) == 1
    text = capsys.readouterr().out
    assert "31.00" in text
    assert "seed 1: failed: kd/hint: not finite at step 3" in text


def test_ablation_dry_run_lists_its_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["ablate", "defeat", "--bench", str(BENCH), "--output", str(tmp_path), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "all terms" in text
    assert "without cnn/neck" in text
    assert main(["ablate", "defeat", "--metric", "APP"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sampler", "tpee"], "tpe"),
        (["--pruner", "medium"], "median"),
        (["--metric", "APP"], "AP50"),
        (["--storage", "nowhere"], "sqlite:///"),
        (["--resume"], "no study"),
        (["--sampler", "grid", "--trials", "1"], "at least 2 points"),
    ],
)
def test_mistakes_are_said_before_anything_runs(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["search", "fitnet", "--bench", str(BENCH), "--output", str(tmp_path), "--device", "cpu", *words]) == 2
    assert message in capsys.readouterr().err


def test_report_says_both_splits_and_every_failure() -> None:
    best = Best(3, {"terms.a.weight": 2.0}, {"AP": 31.25}, {"AP": 31.25}, "somewhere")
    outcome = Outcome(
        "s", "fitnet", "tiny", True, {"complete": 3, "fail": 1}, {1: "out of memory: 2 GiB"}, (best,), {"AP": 30.5},
        {"terms.a.weight": 1.0}, "set:\n  terms.a.weight: 2.0\n",
    )
    text = _report(outcome)
    for words in ("validation: AP 31.25", "test (measured once): AP 30.50", "trial 1 failed: out of memory: 2 GiB", "100 %"):
        assert words in text
