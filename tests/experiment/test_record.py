"""Records and results survive kills, half-written files and second processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdflow.experiment.result import RunResult
from kdflow.results.measured import read_records
from kdflow.tracking.lock import HeldError, held
from kdflow.tracking.mlflow import MlflowTracker
from kdflow.tracking.store import open_client
from kdflow.urls import sqlite_url

Tiny = Callable[..., RunResult]


class KilledError(BaseException):
    """Stands in for SIGKILL: nothing handles it."""


def killed(*_: Any, **__: Any) -> None:
    raise KilledError


def records(tmp_path: Path, unfinished: bool = False) -> list[Any]:
    return read_records(sqlite_url(tmp_path / "runs" / "mlflow.db"), unfinished=unfinished)


@pytest.mark.parametrize("moment", ["finish", "_terminate"])
def test_a_run_killed_before_its_record_was_finished_goes_on_to_exactly_one_record(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(MlflowTracker, moment, killed)
        with pytest.raises(KilledError):
            tiny("baseline")
    assert records(tmp_path) == []
    result = tiny("baseline", resume=True)
    assert result.status == "finished"
    assert result.resumed_from_step == 2
    (record,) = records(tmp_path, unfinished=True)
    assert (record.status, record.run_id) == ("finished", result.run_id)
    assert record.metrics["AP50"] == pytest.approx(result.metrics["AP50"])
    assert (Path(result.folder) / "student.py").is_file()


def test_a_finished_folder_whose_record_was_left_open_is_recorded_by_resuming(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:  # the order of older versions: the result first, then a kill
        patch.setattr(MlflowTracker, "finish", lambda *_, **__: None)
        first = tiny("baseline")
    assert records(tmp_path) == []
    said: list[str] = []
    again = tiny("baseline", resume=True, notify=said.append)
    assert again.metrics == first.metrics
    assert any("its record was not" in line for line in said)
    (record,) = records(tmp_path, unfinished=True)
    assert (record.status, record.run_id) == ("finished", first.run_id)
    assert tiny("baseline", resume=True, notify=lambda _: None) == again
    assert len(records(tmp_path, unfinished=True)) == 1


def test_a_finished_folder_without_a_record_gets_one_with_its_curves(tiny: Tiny, tmp_path: Path) -> None:
    first = tiny("baseline")
    client = open_client(sqlite_url(tmp_path / "runs" / "mlflow.db"))
    client.delete_run(first.run_id)
    again = tiny("baseline", resume=True)
    (record,) = records(tmp_path)
    assert record.run_id == again.run_id != first.run_id
    assert json.loads((Path(first.folder) / "result.json").read_text())["run_id"] == again.run_id
    assert [m.step for m in client.get_metric_history(again.run_id, "loss/total")] == [1, 2]


def test_a_finished_folder_without_its_student_is_made_whole(tiny: Tiny, tmp_path: Path) -> None:
    first = tiny("baseline")
    (Path(first.folder) / "student.pt").unlink()
    said: list[str] = []
    again = tiny("baseline", resume=True, notify=said.append)
    assert any("student.pt is gone" in line for line in said)
    assert (Path(again.folder) / "student.pt").is_file()
    assert len(records(tmp_path)) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"method": "basel', "cannot be read"), ('{"method": "baseline"}', "lacks bench"), ("[1]", "no result"),
        ("\x00", "cannot be read"),
    ],
)
def test_a_result_that_cannot_be_read_counts_as_absent(tiny: Tiny, tmp_path: Path, content: str, words: str) -> None:
    first = tiny("baseline")
    (Path(first.folder) / "result.json").write_text(content)
    said: list[str] = []
    again = tiny("baseline", resume=True, notify=said.append)
    assert any(words in line and "counts as absent" in line for line in said)
    assert again.metrics == first.metrics
    assert len(records(tmp_path)) == 1


def test_a_result_of_another_version_is_read(tiny: Tiny) -> None:
    first = tiny("baseline")
    file = Path(first.folder) / "result.json"
    content = json.loads(file.read_text())
    del content["run_hash"], content["added_parameters"], content["notes"]
    file.write_text(json.dumps({**content, "from_the_future": 1}))
    again = tiny("baseline", resume=True)
    assert (again.metrics, again.added_parameters, again.run_hash) == (first.metrics, 0, "")


def test_a_second_process_is_told_who_works_in_the_folder(tiny: Tiny) -> None:
    first = tiny("baseline")
    with held(Path(first.folder)), pytest.raises(HeldError, match=r"in use by process \d+ on .*, since .*--resume"):
        tiny("baseline")
    assert tiny("baseline").status == "finished"


def test_a_fresh_start_is_not_taken_for_the_finished_run_before_it(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tiny("baseline")
    with monkeypatch.context() as patch:
        patch.setattr("kdflow.experiment.run.fit", killed)
        with pytest.raises(KilledError):
            tiny("baseline")
    assert not (Path(first.folder) / "result.json").exists()


def test_a_kept_teacher_is_known_by_its_content(
    tiny: Tiny, any_teacher: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("KDFLOW_HOME", str(home))
    tiny("fitnet")
    (weights,) = [f for f in (home / "teachers").glob("*/weights.pt") if (f.parent / "weights.sha256").is_file()]
    whole = weights.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        weights.write_bytes(damage)
        said: list[str] = []
        tiny("fitnet", notify=said.append)
        assert any("is not what was written there, so it counts as absent" in line for line in said)
        assert weights.read_bytes() != damage
    for file in weights.parent.glob("val-*.json"):
        file.write_text('{"AP"')
    assert tiny("fitnet", notify=said.append).status == "finished"
    assert any("val-" in line and "counts as absent" in line for line in said)
    (weights.parent / "weights.sha256").unlink()  # killed between the two
    assert tiny("fitnet").status == "finished"
    assert (weights.parent / "weights.sha256").is_file()


@pytest.mark.parametrize(
    ("change", "words"),
    [({"seed": 1}, "seed is 0, here 1"), ({"steps": 3}, "recipe.steps is 2, here 3"),
     ({"overrides": {"recipe.optimizer.lr": 0.5}}, "recipe.optimizer.lr is "), ({"threads": 2}, "threads is 1, here 2")],
)
def test_resuming_what_was_never_begun_names_the_nearest_run_and_what_differs(
    tiny: Tiny, change: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    first = tiny("baseline")
    if threads := change.pop("threads", 0):
        monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    said: list[str] = []
    tiny("baseline", resume=True, notify=said.append, **change)
    (line,) = [line for line in said if "nothing was resumed" in line]
    assert first.folder in line
    assert words in line


def test_runs_of_older_versions_are_compared_by_their_filled_spec(tiny: Tiny) -> None:
    first = tiny("baseline")
    (Path(first.folder) / "identity.json").unlink()
    said: list[str] = []
    tiny("baseline", resume=True, seed=3, notify=said.append)
    assert any("differs in: seed is 0, here 3" in line for line in said)


def test_what_has_no_effect_does_not_make_another_run(tiny: Tiny) -> None:
    first = tiny("baseline")
    said: list[str] = []
    again = tiny("baseline", resume=True, notify=said.append, overrides={"recipe.log_every": 7, "data.workers": 1})
    assert again == first
