"""Many runs: only what results are made of is read, page by page, and nothing heavy is loaded for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.results_load import fill, measure
from kdflow.results.measured import read_records
from kdflow.tracking import store, tables

RUNS = 60


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return fill(tmp_path_factory.mktemp("many"), RUNS)


def test_tables_give_what_the_stores_own_interface_gives(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PAGE", 7)
    quick = read_records(uri)
    assert len(quick) == RUNS
    assert [r.started for r in quick[:-1]] == sorted(r.started for r in quick[:-1])
    monkeypatch.setattr(tables, "is_readable", lambda uri: False)
    monkeypatch.setattr(store, "PAGE", 11)
    assert read_records(uri) == quick
    assert read_records(uri, ["load"]) == quick
    assert read_records(uri, ["other"]) == []


def test_runs_that_were_deleted_or_are_not_finished_are_left_out(uri: str) -> None:
    client = store.open_client(uri)
    known = read_records(uri)
    client.delete_run(known[3].run_id)
    client.set_terminated(known[4].run_id, "FAILED")
    client.delete_tag(known[5].run_id, "method")
    left = [record.run_id for record in read_records(uri)]
    assert left == [record.run_id for number, record in enumerate(known) if number not in (3, 4, 5)]
    assert {r.run_id for r in read_records(uri, unfinished=True)} - set(left) == {known[4].run_id}


def test_neither_torch_nor_mlflow_is_needed_to_read_them(uri: str, tmp_path: Path) -> None:
    seconds, megabytes, records = measure(uri)
    assert records >= RUNS - 3
    assert seconds < 5
    assert megabytes < 200


def test_a_database_of_another_kind_is_no_store_of_these_tables(tmp_path: Path) -> None:
    import sqlite3

    file = tmp_path / "other.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE runs (x INTEGER)")
    connection.close()
    assert tables.read(f"sqlite:///{file}", [], False) is None
