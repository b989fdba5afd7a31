"""What every tracker promises: whole curves, also over a resume; nothing outside of its folder; no passwords."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kdflow.errors import UsageError
from kdflow.events import (
    EvaluationEvent,
    Pull,
    PullEvent,
    RunEnded,
    RunStarted,
    StepEvent,
    StopRun,
    WeightChange,
    WeightEvent,
)
from kdflow.tracking.memory import MemoryTracker
from kdflow.tracking.run import RunFacts, Tracker
from kdflow.tracking.trackers import RECORD, TRACKERS, Beside, chosen_trackers

SECRET = "postgresql://me:hunter2@host/db"
Curve = list[tuple[int, float]]
trackers = pytest.mark.parametrize("name", TRACKERS.names())


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_API_KEY", "KDFLOW_TRACKERS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)


def facts() -> RunFacts:
    return RunFacts(
        method="fgd", bench="shapes-frcnn", seed=3, run_hash="a1b2c3", terms={"kd/neck": ("cnn/neck",)},
        families={"student": "two-stage"}, params={"store": SECRET}, spec={"method": {"method": "fgd", "weight": 2}},
    )


def start(folder: Path, resumed: int = 0) -> RunStarted:
    return RunStarted(folder, 60, resumed, "cpu", 1, ("kd/neck",))


def step(number: int, repeated: bool = False) -> StepEvent:
    raw = {"kd/neck": number / 100}
    return StepEvent(number, 60, "", 1.0 + number, raw, raw, 0.01, 0.2, 10.0, repeated)


def scores(number: int, repeated: bool = False) -> EvaluationEvent:
    return EvaluationEvent(number, {"AP": number / 2}, "AP", number / 2, True, repeated)


def begun(name: str, folder: Path, steps: int, resumed: int = 0, known: int = 0) -> Tracker:
    """A tracker that has heard of a run up to a step, in reports of 20; those up to ``known`` were reported before."""
    one = TRACKERS.get(name).make(facts(), folder)
    one.run_started(start(folder, resumed))
    if not resumed:
        one.weights_changed(WeightEvent(0, (WeightChange("kd/neck", 6.0, 2.0, "calibrated"),), calibrated=True))
        one.pulls_known(PullEvent(20, (Pull("kd/neck", 2.0, 4.0),)))
    for number in range(resumed + 20, steps + 1, 20):
        one.step_ended(step(number, number <= known))
        one.evaluation_ended(scores(number, number <= known))
    return one


def finished(name: str, folder: Path) -> Tracker:
    one = begun(name, folder, 60)
    one.run_ended(RunEnded("finished", 60))
    one.text("note.txt", "a word")
    one.finish({"AP": 12.5, "test/class/dog": 3.0}, (), "test")
    return one


@trackers
def test_a_whole_run_is_kept_inside_its_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "x"
    folder.mkdir(parents=True)
    one = finished(name, folder)
    curves = CURVES[name](one, folder)
    assert curves["loss/total"] == [(20, 21.0), (40, 41.0), (60, 61.0)]
    assert curves["weighted/kd/neck"] == [(20, 0.2), (40, 0.4), (60, 0.6)]
    assert curves["val/AP"] == [(20, 10.0), (40, 20.0), (60, 30.0)]
    assert curves["pull/kd/neck"] == [(20, 4.0)]
    assert [p for p in tmp_path.iterdir() if p.name != "runs"] == []


@trackers
def test_a_resumed_run_has_each_step_once(name: str, tmp_path: Path) -> None:
    """Killed after step 40, whose checkpoint was of step 20."""
    begun(name, tmp_path, 40).run_ended(RunEnded("failed", 40, "killed"))
    one = begun(name, tmp_path, 60, resumed=20, known=40)
    one.run_ended(RunEnded("finished", 60))
    one.finish({"AP": 12.5}, (), "test")
    for curve in (CURVES[name](one, tmp_path)[key] for key in ("loss/total", "val/AP")):
        assert [at for at, _ in curve if at > 20] == [40, 60]


@trackers
def test_passwords_are_not_written(name: str, tmp_path: Path) -> None:
    one = begun(name, tmp_path, 20)
    one.run_ended(RunEnded("failed", 20, f"cannot reach {SECRET}"))
    if isinstance(one, MemoryTracker):
        return
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert not any(b"hunter2" in content for content in written)


@trackers
def test_a_run_that_never_began_can_end(name: str, tmp_path: Path) -> None:
    TRACKERS.get(name).make(facts(), tmp_path).run_ended(RunEnded("failed", 0, "no data"))


@trackers
def test_it_has_a_line_for_listings(name: str) -> None:
    assert TRACKERS.get(name).doc


def test_unknown_trackers_are_refused_with_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r'no tracker "tensorbord".*tensorboard'):
        chosen_trackers(["tensorbord"])
    monkeypatch.setenv("KDFLOW_TRACKERS", f"wandb, tensorboard,{RECORD},wandb")
    assert chosen_trackers() == ("wandb", "tensorboard")
    assert chosen_trackers([]) == ()


def test_a_tracker_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UsageError, match="pip install wandb"):
        chosen_trackers(["wandb"])


class Failing(MemoryTracker):
    def step_ended(self, event: StepEvent) -> None:
        raise OSError(f"no space left for {SECRET}")


class Stopping(MemoryTracker):
    def step_ended(self, event: StepEvent) -> None:
        raise StopRun("enough")


def test_one_that_fails_is_named_once_and_the_others_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = MemoryTracker(facts()), Failing(facts())
    both = Beside({"bad": bad, "good": good})
    both.run_started(start(tmp_path))
    for number in (20, 40):
        both.step_ended(step(number))
    assert good.curves["loss/total"] == [(20, 21.0), (40, 41.0)]
    (said,) = caplog.messages
    assert "the tracker bad failed and is left out" in said
    assert "hunter2" not in said


def test_one_may_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(StopRun):
        Beside({"stopping": Stopping(facts())}).step_ended(step(20))


# How the curves are read back, by tracker.


def of_memory(one: Any, _folder: Path) -> dict[str, Curve]:
    return dict(one.curves)


def of_mlflow(_one: Tracker, folder: Path) -> dict[str, Curve]:
    with sqlite3.connect(folder / "mlflow.db") as store:
        rows = store.execute("SELECT key, step, value FROM metrics ORDER BY step, timestamp").fetchall()
    store.close()
    return grouped(rows)


def of_tensorboard(_one: Tracker, folder: Path) -> dict[str, Curve]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / "tensorboard"))
    read.Reload()
    return {tag: [(e.step, round(e.value, 6)) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def of_wandb(_one: Tracker, folder: Path) -> dict[str, Curve]:
    """From the journals of the offline runs, which are merged by ``wandb sync`` in the order of their names."""
    import json

    rows = []
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for record in whole(file):
            if record.WhichOneof("record_type") == "history":
                values = {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
                at = values.pop("step")
                rows += [(key, at, value) for key, value in values.items() if not key.startswith("_")]
    return grouped(rows)


def whole(file: Path, patience: float = 30.0) -> list[Any]:
    """The records of a run that has ended, whose last ones a process of wandb may still be writing."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        records = list(journal(file.read_bytes()))
        if records and records[-1].WhichOneof("record_type") == "exit":
            return records
        time.sleep(0.05)
    raise AssertionError(f"{file} never got its end")


def journal(content: bytes) -> Iterator[Any]:
    """Records of a ``.wandb`` file: blocks of 32 KiB with pieces of 7 bytes of header (checksum, length, kind) each."""
    from wandb.proto.wandb_internal_pb2 import Record

    at, piece = 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(content[at + 4:at + 6], "little"), content[at + 6]
        piece += content[at + 7:at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of several
            record = Record()
            record.ParseFromString(piece)
            yield record
            piece = b""


def grouped(rows: list[tuple[str, int, float]]) -> dict[str, Curve]:
    found: dict[str, Curve] = {}
    for key, at, value in rows:
        found.setdefault(key, []).append((at, value))
    return found


CURVES: dict[str, Callable[[Any, Path], dict[str, Curve]]] = {
    "memory": of_memory, "mlflow": of_mlflow, "tensorboard": of_tensorboard, "wandb": of_wandb,
}
