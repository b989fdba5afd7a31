"""Addresses of stores, folders of any name, servers that do not answer, and passwords that nobody sees."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kdflow import folders
from kdflow.cli.console import note, say_json
from kdflow.cli.main import main
from kdflow.data.shapes import ShapesOptions, cache_folder
from kdflow.errors import KdflowError, UsageError, without_passwords
from kdflow.experiment.filled import write_identity, write_spec
from kdflow.experiment.identity import identify
from kdflow.experiment.reading import read_method
from kdflow.experiment.setup import prepare
from kdflow.folders import checked_name, runs_folder, slug
from kdflow.results.measured import read_records
from kdflow.search.queue import open_storage
from kdflow.tracking.run import RunFacts, flat
from kdflow.tracking.store import open_client, require_store, store_uri
from kdflow.urls import require_answer, sqlite_file, sqlite_url
from tests.paths import BENCH
from tests.results.store import write_run

HOSTILE = ["50%20off", "what?", "a#b", "100%", "a?b=c&d#e%2f", "ä ö", "it's", ".."]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_store_lies_in_the_folder_that_was_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "sub" / name
    folder.mkdir(parents=True, exist_ok=True)
    before = {path for path in tmp_path.rglob("*") if path.is_dir()}
    url = sqlite_url(folder / "mlflow.db")
    assert sqlite_file(url) == folder / "mlflow.db"
    write_run(folder, "baseline", 10.0)
    assert (folder / "mlflow.db").is_file()
    assert (folder / "artifacts").parent.resolve() == folder.resolve()
    (record,) = read_records(url)
    client = open_client(url)
    client.log_text(record.run_id, "words", "a.txt")
    (text,) = folder.rglob("a.txt")
    assert text.read_text() == "words"
    open_storage(sqlite_url(folder / "search.db")).engine.dispose()
    assert (folder / "search.db").is_file()
    made = {path for path in tmp_path.rglob("*") if path.is_dir()} - before
    assert all(folder.resolve() in path.resolve().parents for path in made), "nothing beside the folder"


def test_plain_addresses_stay_as_they_were(tmp_path: Path) -> None:
    assert sqlite_url(tmp_path / "mlflow.db") == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert sqlite_file("sqlite:///x.db?timeout=3") == Path("x.db")
    assert sqlite_file("sqlite://") is None
    assert sqlite_file("postgresql://host/db") is None


@pytest.mark.parametrize("name", ["..", "../up", "/abs", "a/b", "", ".hidden", "a b", "x" * 101, "nul\x00", "-rf", "a\nb"])
def test_names_become_folders_only_where_they_stay_inside(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--study: .*letters, digits"):
        checked_name(name, "--study")
    made = slug(name)
    assert checked_name(made, "it") == made
    assert (tmp_path / made).resolve().parent == tmp_path.resolve()


def test_different_names_make_different_folders() -> None:
    assert len({slug(name) for name in ("a b", "a_b", "a/b", "a?b", "a  b")}) == 5
    assert slug("tiny-1.0_x") == "tiny-1.0_x"


@pytest.mark.parametrize("study", ["..", "../../up", "a/b", "x?y"])
def test_a_study_that_would_leave_its_folder_is_refused(
    study: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["search", "fitnet", "--bench", str(BENCH), "--study", study, "--output", str(tmp_path / "runs"), "--trials", "1"]
    assert main(words) == 2
    assert "--study" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} <= {"runs"}


@pytest.mark.parametrize("bench", ["../up", "/abs", "..", "a/b"])
def test_a_bench_that_would_leave_the_folder_is_refused_at_its_line(
    bench: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(BENCH.read_text().replace("bench: tiny", f"bench: {bench}"))
    for command in (["check", "baseline", "--bench", str(file)], ["run", "baseline", "--bench", str(file)]):
        assert main(command) == 2
        assert "own.yaml:3:" in capsys.readouterr().err


# folders


def test_homes_and_runs_are_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KDFLOW_HOME", "~/kd")
    monkeypatch.setenv("KDFLOW_RUNS", "$HOME/own-runs")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert folders.home() == tmp_path / "kd"
    assert cache_folder(ShapesOptions()).parent == tmp_path / "kd" / "data"
    assert runs_folder() == tmp_path / "own-runs"
    assert runs_folder("~/other") == tmp_path / "other"
    assert sqlite_file(store_uri()) == tmp_path / "own-runs" / "mlflow.db"
    assert sqlite_file(store_uri(None, Path("~/other"))) == tmp_path / "other" / "mlflow.db"
    monkeypatch.delenv("KDFLOW_RUNS")
    monkeypatch.delenv("KDFLOW_HOME")
    assert runs_folder() == Path("kdflow-runs").absolute()
    assert folders.home() == tmp_path / ".cache" / "kdflow"


def test_writers_and_readers_obey_the_same_folder(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KDFLOW_RUNS", "~/50%20off")
    assert main(["run", "baseline", "--bench", str(BENCH), "--device", "cpu", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert Path(result["folder"]).is_relative_to(tmp_path / "50%20off")
    assert [path.name for path in tmp_path.iterdir()] == ["50%20off"]
    assert main(["results", "--by", "bench", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"] == 1
    assert main(["sweep", "baseline", "--bench", str(BENCH), "--dry-run", "--json", "--device", "cpu"]) == 0
    (job,) = json.loads(capsys.readouterr().out)
    assert job["hash"] == result["run_hash"]


# servers


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)
        yield server.getsockname()[1]


def test_a_server_that_does_not_answer_is_said_within_seconds(
    silent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdflow.urls.PATIENCE", 0.5)
    for url in (f"http://127.0.0.1:{silent}", "http://127.0.0.1:9", "postgresql://user:secret@127.0.0.1:9/db"):
        begun = time.monotonic()
        with pytest.raises(KdflowError, match=r"127\.0\.0\.1") as told:
            open_client(url)
        assert time.monotonic() - begun < 4
        assert "Next:" in str(told.value)
        assert "secret" not in str(told.value)
    with pytest.raises(KdflowError, match="the search storage postgresql"):
        open_storage("postgresql+psycopg://user:secret@127.0.0.1:9/db")
    require_answer(sqlite_url(tmp_path / "x.db"), "it")


def test_it_is_said_before_teachers_train(
    silent: int, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kdflow.urls.PATIENCE", 0.5)
    monkeypatch.setattr("kdflow.experiment.teacher.fit", lambda *_, **__: pytest.fail("a teacher was trained"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent}")
    base = ["--bench", str(BENCH), "--output", str(tmp_path / "runs"), "--device", "cpu"]
    together = ["run", "fitnet", "baseline", "--together"]
    for command in (["run", "fitnet"], together, ["search", "fitnet"], ["sweep", "fitnet"], ["ablate", "fitnet"], ["results"]):
        begun = time.monotonic()
        assert main([*command, *(base if command != ["results"] else [])]) == 2
        assert "does not answer within" in capsys.readouterr().err
        assert time.monotonic() - begun < 20


# passwords

URLS = [
    "postgresql://user:pa55word@host/db", "postgresql+psycopg://user:pa55word@host:5432/db?sslmode=require",
    "mysql://u:pa55word/x@host/db", "https://user:p@pa55word@host/x", "postgresql://host/db?user=u&password=pa55word",
    "https://host/x?access_token=pa55word#a", "https://pa55word@host/x",
]


@pytest.mark.parametrize("url", URLS)
def test_no_password_leaves(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    for error in (KdflowError(f"the store {url} is gone"), UsageError(f'no "{url}"')):
        assert "pa55word" not in str(error)
        assert "host" in str(error)
    note(f"see {url}, please")
    say_json({"store": url})
    out = capsys.readouterr()
    assert "pa55word" not in out.out + out.err
    assert "host" in out.out
    facts = RunFacts(method="m", bench="b", overrides={"student.weights": url}, spec={"student": {"weights": url}})
    assert "pa55word" not in json.dumps([facts.tags(), flat(facts.spec)])


def test_addresses_without_a_password_stay() -> None:
    for text in ("http://127.0.0.1:5000/x", "sqlite:////tmp/a.db?timeout=3", "a@b.c: x", "postgresql://user@host/db", "s3://b/k"):
        assert without_passwords(text) == text


def test_no_password_in_what_a_run_leaves(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = prepare(read_method("baseline"), BENCH)
    student = setting.bench.student.model_copy(update={"weights": "https://user:pa55word@host/x"})
    setting = replace(setting, bench=setting.bench.model_copy(update={"student": student}))
    files = [*write_spec(setting, tmp_path), write_identity(identify(setting, "data"), tmp_path)]
    assert all(file.is_file() for file in files)
    assert "host" in (tmp_path / "run.yaml").read_text()
    assert not any("pa55word" in file.read_text() for file in files)


def test_storage_with_a_password_is_told_without(capsys: pytest.CaptureFixture[str], home: Path, tmp_path: Path) -> None:
    words = ["search", "fitnet", "--bench", str(BENCH), "--output", str(tmp_path), "--trials", "1"]
    assert main([*words, "--storage", "postgresql+psycopg://user:pa55word@127.0.0.1:9/db"]) == 2
    err = capsys.readouterr().err
    assert "user:***@127.0.0.1:9" in err
    assert "pa55word" not in err


# disks


def test_a_store_that_cannot_be_written_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KdflowError, match="a part of this path is a file"):
        require_store(tmp_path / "file" / "runs")
    require_store(tmp_path / "runs")
    real = sqlite3.connect
    monkeypatch.setattr(
        "kdflow.tracking.store.sqlite3.connect",
        lambda file, **more: real(f"file:{file}?mode=ro", uri=True, **more),
    )
    with pytest.raises(KdflowError, match=r"mlflow.db cannot be written: attempt to write a readonly database"):
        require_store(tmp_path / "runs")
