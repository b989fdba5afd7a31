import json
import logging
import time
from pathlib import Path

import pytest

from kdflow.errors import KdflowError
from kdflow.events import EvaluationEvent, RunEnded, RunStarted, StepEvent
from kdflow.results.measured import read_records
from kdflow.results.query import query
from kdflow.tracking.mlflow import MlflowTracker, RunFacts, study_run
from kdflow.tracking.store import experiment_id, open_client, read_runs, sqlite_file, store_uri

TERMS = {"det/loss_cls": (), "kd/neck": ("cnn/neck",), "kd/roi": ("cnn/rpn-roi", "cnn/head")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One store for all tests of this file: making it takes seconds."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(autouse=True)
def _no_other_store(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def uri(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def facts(bench: str, **other) -> RunFacts:
    values = {
        "method": "defeat", "bench": bench, "seed": 0, "run_hash": f"{bench}-0", "paper": "2103.14475", "fidelity": "code",
        "families": {"student": "two-stage", "teacher": "two-stage"}, "terms": TERMS, "dataset": "shapes",
        "detectors": {"student": "faster-rcnn", "teacher": "faster-rcnn"}, "spec": {"terms": {"neck": {"weight": 3.0}}},
        "params": {"threads": 1},
    }
    return RunFacts(**{**values, **other})


def start(folder: Path, resumed: int = 0) -> RunStarted:
    return RunStarted(folder / "x", 60, resumed, "cpu", 1, tuple(TERMS))


def step(number: int, total: float = 1.0) -> StepEvent:
    raw = {"det/loss_cls": 0.5, "kd/neck": 0.2, "kd/roi": 0.1}
    return StepEvent(number, 60, "", total, raw, {**raw, "kd/neck": 0.6}, 0.01, 0.2, 10.0)


def evaluation(number: int, ap: float) -> EvaluationEvent:
    return EvaluationEvent(number, {"AP": ap, "AP_S": float("nan")}, "AP", ap, True)


def history(folder: Path, run_id: str, metric: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in open_client(uri(folder)).get_metric_history(run_id, metric)]


def test_a_run_is_written_and_read_back(folder: Path, caplog: pytest.LogCaptureFixture, capfd):
    spec, weights = folder / "run.yaml", folder / "student.pt"
    spec.write_text("method: defeat\n")
    weights.write_bytes(b"x")
    tracker = MlflowTracker(facts("written", artifacts=(spec, folder / "graph.svg")), folder=folder)
    assert tracker.run_id is None
    with caplog.at_level(logging.INFO):
        tracker.run_started(start(folder))
    tracker.step_ended(step(20))
    tracker.evaluation_ended(evaluation(20, 10.0))
    tracker.step_ended(step(40))
    tracker.run_ended(RunEnded("finished", 40))
    assert read_runs(uri(folder)) == [], "trained, but not yet judged"
    (folder / "result.json").write_text(json.dumps({"AP": 12.5}))
    tracker.finish({"AP": 12.5, "voc_ap50": 40.0, "AP_S": float("nan")}, [folder / "result.json", weights])

    (run,) = read_runs(uri(folder))
    assert run.run_id == tracker.run_id
    assert run.result == {"AP": 12.5, "voc_ap50": 40.0}
    assert run.tags["node.cnn/neck"] == run.tags["node.cnn/head"] == "true"
    assert run.tags["kdflow.weights"] == str(weights)
    assert run.tags["kdflow.split"] == "test"
    assert history(folder, run.run_id, "loss/cnn/neck") == [(20, 0.6), (40, 0.6)]
    assert history(folder, run.run_id, "raw/kd/neck") == [(20, 0.2), (40, 0.2)]
    assert history(folder, run.run_id, "val/AP") == [(20, 10.0)]
    client = open_client(uri(folder))
    assert client.get_run(run.run_id).data.params == {"terms.neck.weight": "3.0", "threads": "1", "seed": "0"}
    assert {item.path for item in client.list_artifacts(run.run_id)} == {"run.yaml", "result.json"}
    assert (folder / "artifacts" / "written").is_dir()
    assert "graph.svg is not there" in caplog.text
    assert "mlflow" not in "".join(capfd.readouterr()).lower()


def test_a_resumed_run_goes_on_in_the_same_mlflow_run_and_repeats_nothing(folder: Path):
    first = MlflowTracker(facts("resumed"), folder=folder)
    first.run_started(start(folder))
    for number in (10, 20, 30):
        first.step_ended(step(number, total=float(number)))
    first.evaluation_ended(evaluation(30, 9.0))
    first.run_ended(RunEnded("interrupted", 30, "SIGTERM"))
    assert read_runs(uri(folder), ["resumed"]) == []
    (stopped,) = read_runs(uri(folder), ["resumed"], unfinished=True)
    assert (stopped.status, stopped.tags["kdflow.reason"]) == ("interrupted", "SIGTERM")

    second = MlflowTracker(facts("resumed"), folder=folder)
    second.run_started(start(folder, resumed=20))
    for number in (30, 40):
        second.step_ended(step(number, total=-1.0))
    second.evaluation_ended(evaluation(30, 1.0))
    second.evaluation_ended(evaluation(40, 11.0))
    second.run_ended(RunEnded("finished", 40))
    second.finish({"AP": 12.0})
    assert second.run_id == first.run_id
    assert history(folder, first.run_id, "loss/total") == [(10, 10.0), (20, 20.0), (30, 30.0), (40, -1.0)]
    assert history(folder, first.run_id, "val/AP") == [(30, 9.0), (40, 11.0)]

    again = MlflowTracker(facts("resumed"), folder=folder)
    again.run_started(start(folder, resumed=40))
    again.run_ended(RunEnded("finished", 40))
    again.finish({"AP": 12.0})
    assert history(folder, first.run_id, "AP") == [(40, 12.0)]
    assert len(read_runs(uri(folder), ["resumed"], unfinished=True)) == 1


def test_a_fresh_start_makes_a_new_run_and_closes_the_one_that_was_killed(folder: Path):
    killed = MlflowTracker(facts("fresh"), folder=folder)
    killed.run_started(start(folder))
    killed.step_ended(step(10))
    killed._writer.finish()
    fresh = MlflowTracker(facts("fresh"), folder=folder)
    fresh.run_started(start(folder))
    fresh.run_ended(RunEnded("failed", 0, "InvariantError"))
    states = {run.run_id: run.status for run in read_runs(uri(folder), ["fresh"], unfinished=True)}
    assert states == {killed.run_id: "interrupted", fresh.run_id: "failed"}


def test_records_of_several_seeds_answer_a_query(folder: Path):
    for method, seed, ap in [("baseline", 0, 30.0), ("baseline", 1, 31.0), ("defeat", 0, 33.0), ("defeat", 1, 34.5)]:
        terms = TERMS if method == "defeat" else {"det/loss_cls": ()}
        tracker = MlflowTracker(
            facts("queried", method=method, seed=seed, terms=terms, run_hash=f"{method}{seed}", definition=method), folder=folder
        )
        tracker.finish({"AP": ap, "voc_ap50": ap + 20})
    records = read_records(uri(folder), benches=["queried"])
    assert [record.seed for record in records] == [0, 1, 0, 1]
    answer = query(records, where="dataset = shapes and pair = homogeneous")
    roi = next(group for group in answer.groups if group.key == "cnn/rpn-roi")
    assert [(line.label, line.runs, line.gain.get("AP")) for line in roi.lines] == [
        ("no distillation", 2, None), ("defeat", 2, 3.25),
    ]
    assert roi.lines[1].gain_spread["AP"] == pytest.approx(0.5**0.5 / 2)


def test_trials_are_nested_in_their_search_and_read_on_request(folder: Path):
    parent = study_run("searched", "it's a study", folder=folder)
    assert study_run("searched", "it's a study", folder=folder) == parent
    trial = MlflowTracker(facts("searched", kind="trial", parent=parent, overrides={"terms.neck.weight": 2}), folder=folder)
    trial.run_started(start(folder))
    trial.run_ended(RunEnded("finished", 10))
    trial.finish({"AP": 1.0})
    assert read_runs(uri(folder), ["searched"]) == []
    (run,) = read_runs(uri(folder), ["searched"], trials=True)
    assert run.tags["mlflow.parentRunId"] == parent
    assert run.tags["variant"] == "terms.neck.weight=2"


def test_all_pages_are_read(folder: Path, monkeypatch):
    monkeypatch.setattr("kdflow.tracking.store.PAGE", 2)
    for seed in range(5):
        MlflowTracker(facts("paged", seed=seed, run_hash=f"p{seed}"), folder=folder).finish({"AP": 1.0})
    assert [run.tags["seed"] for run in read_runs(uri(folder), ["paged"])] == ["0", "1", "2", "3", "4"]


def test_logging_costs_the_loop_less_than_a_millisecond_per_step(folder: Path):
    tracker = MlflowTracker(facts("fast"), folder=folder)
    tracker.run_started(start(folder))
    times = []
    for number in range(1, 201):
        began = time.perf_counter()
        tracker.step_ended(step(number))
        times.append(time.perf_counter() - began)
    tracker.run_ended(RunEnded("finished", 200))
    assert sorted(times)[len(times) // 2] < 1e-3
    assert len(history(folder, tracker.run_id, "loss/total")) == 200


def test_a_store_that_refuses_the_result_leaves_the_run_unfinished(folder: Path, monkeypatch):
    monkeypatch.setattr("kdflow.tracking.writer.time.sleep", lambda seconds: None)
    tracker = MlflowTracker(facts("refused"), folder=folder)
    tracker.run_started(start(folder))

    def refuse(values):
        raise OSError("disk full")

    monkeypatch.setattr(tracker._writer, "_send", refuse)
    with pytest.raises(KdflowError, match="1 values could not be written to the tracking store: disk full"):
        tracker.finish({"AP": 1.0})
    assert read_runs(uri(folder), ["refused"]) == []


def test_a_store_elsewhere_gets_a_copy_of_the_weights(folder: Path, monkeypatch):
    weights = folder / "student.pt"
    weights.write_bytes(b"x")
    monkeypatch.setattr("kdflow.tracking.mlflow.is_local", lambda uri: False)
    tracker = MlflowTracker(facts("elsewhere"), folder=folder)
    tracker.finish({"AP": 1.0}, [weights])
    assert [item.path for item in open_client(uri(folder)).list_artifacts(tracker.run_id)] == ["student.pt"]


def test_runs_of_other_programs_in_the_store_are_passed_over(folder: Path):
    client = open_client(uri(folder))
    other = client.create_run(experiment_id(client, "foreign", uri(folder)), tags={"method": "sgd"})
    client.set_terminated(other.info.run_id, "FINISHED")
    assert read_runs(uri(folder), ["foreign"]) == []


def test_a_store_that_was_never_written_holds_no_runs_and_is_not_made(tmp_path: Path):
    assert read_runs(f"sqlite:///{tmp_path / 'none.db'}") == []
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_opened_is_said_before_training(tmp_path: Path):
    (tmp_path / "mlflow.db").write_text("this is no database, and it is long enough to be read as one " * 20)
    tracker = MlflowTracker(facts("broken"), folder=tmp_path)
    with pytest.raises(KdflowError, match=r"the tracking store sqlite:.*mlflow\.db cannot be opened: .*not a database"):
        tracker.run_started(start(tmp_path))


def test_the_store_is_chosen_by_argument_then_environment_then_folder(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert store_uri() == f"sqlite:///{tmp_path / 'kdflow-runs' / 'mlflow.db'}"
    assert store_uri(folder=tmp_path / "a") == f"sqlite:///{tmp_path / 'a' / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert store_uri(folder=tmp_path / "a") == "http://server:5000"
    assert store_uri("sqlite:///x.db") == "sqlite:///x.db"
    assert sqlite_file("sqlite:///x.db?timeout=9") == Path("x.db")
    assert sqlite_file("http://server:5000") is None
