"""A new store is whole or not there: MLflow cannot go on with tables that a kill left half made."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdflow.tracking import store
from kdflow.urls import sqlite_url


def test_a_store_whose_making_was_cut_off_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mlflow.db"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            store.open_client(sqlite_url(file))
    assert file.stat().st_size == 0, "nothing half made lies where the store will be"
    (draft,) = tmp_path.glob(".new.*")
    draft.write_bytes(draft.read_bytes()[:4096])
    assert [e.name for e in store.open_client(sqlite_url(file)).search_experiments()] == ["Default"]
    assert not list(tmp_path.glob(".new.*"))
