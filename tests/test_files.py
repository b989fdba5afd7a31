"""Files are whole or not there, and what a disk refuses is said in words."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kdflow.cli.main import main
from kdflow.engine.checkpoint import Checkpoints
from kdflow.experiment.room import checkpoint_bytes
from kdflow.experiment.teacher import save_atomically
from kdflow.files import WriteError, read_json, replacing, write_json, write_text
from kdflow.results.measured import read_records
from kdflow.spec.bench import Optimizer
from kdflow.urls import sqlite_url
from tests.engine.fakes import FakePlan, TwoParameters, arguments, fit, loader, make_recipe
from tests.paths import BENCH


@contextmanager
def small_disk(limit: int = 4096) -> Iterator[None]:
    """No file of this process grows beyond ``limit`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_leaves_what_was_there_and_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"a": 1})
    with small_disk(), pytest.raises(WriteError, match=r"a\.json cannot be written: .*larger.*Next:"):
        write_text(file, "x" * 10_000)
    assert json.loads(file.read_text()) == {"a": 1}
    with pytest.raises(ZeroDivisionError):
        killed_in_the_middle(file)
    assert json.loads(file.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def killed_in_the_middle(file: Path) -> None:
    with replacing(file) as draft:
        draft.write_text("half")
        raise ZeroDivisionError


def test_weights_and_checkpoints_that_do_not_fit_are_said_and_the_old_ones_stay(tmp_path: Path) -> None:
    state = {"w": torch.zeros(10_000)}
    save_atomically(tmp_path / "student.pt", {"w": torch.ones(3)})
    checkpoints = Checkpoints(tmp_path, "run")
    checkpoints.save({"step": 1})
    with small_disk():
        with pytest.raises(WriteError, match=r"student\.pt cannot be written"):
            save_atomically(tmp_path / "student.pt", state)
        with pytest.raises(WriteError, match=r"last\.pt cannot be written"):
            checkpoints.save(state)
        with pytest.raises(WriteError, match=r"best\.pt cannot be written"):
            checkpoints.save_best(state)
    assert torch.load(tmp_path / "student.pt")["w"].shape == (3,)
    found = checkpoints.load()
    assert found is not None
    assert found.state["step"] == 1
    assert sorted(os.listdir(tmp_path)) == ["last.pt", "student.pt"]


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "no permission"), (errno.EDQUOT, "quota")],
)
def test_reasons_are_words(code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(WriteError, match=words):
        write_text(tmp_path / "a", "x")


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"a file of that name is where a folder is needed|a part of this path is a file"):
        write_text(tmp_path / "file" / "a", "x")


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe", b"nul\x00"])
def test_what_cannot_be_read_counts_as_absent_with_a_word(content: bytes, tmp_path: Path) -> None:
    said: list[str] = []
    assert read_json(tmp_path / "none.json", said.append) is None
    assert said == []
    (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json", said.append) is None
    assert "counts as absent" in said[0]


FULL = OSError(errno.ENOSPC, "No space left on device")


def full(*_: Any, **__: Any) -> None:
    raise FULL


@pytest.mark.parametrize(
    "place",
    ["kdflow.engine.checkpoint.torch.save", "kdflow.experiment.record.write_json", "kdflow.experiment.run.export_student"],
)
def test_a_run_on_a_full_disk_ends_in_words_and_goes_on_when_there_is_room(
    place: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "baseline", "--bench", str(BENCH), "--output", str(tmp_path / "runs"), "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr(place, full)
        assert main(words) == 2
    err = capsys.readouterr().err
    assert "the disk is full" in err
    assert "--resume" in err
    assert "Traceback" not in err
    assert main([*words, "--resume", "--json"]) == 0
    (record,) = read_records(sqlite_url(tmp_path / "runs" / "mlflow.db"))
    assert record.run_id == json.loads(capsys.readouterr().out)["run_id"]


def test_a_disk_without_room_for_checkpoints_is_said_before_teachers_train(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdflow.experiment.teacher.fit", lambda *_, **__: pytest.fail("a teacher was trained"))
    monkeypatch.setattr("kdflow.experiment.room.shutil.disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    assert main(["run", "fitnet", "--bench", str(BENCH), "--output", str(tmp_path / "runs"), "--device", "cpu"]) == 2
    err = capsys.readouterr().err
    assert re.search(r"need about \d+ MB, and its disk has 1 MB free. Next: make room", err)


class Wide(TwoParameters):
    """Weights of 160 kB."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = torch.nn.Linear(200, 200)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 0 * self.extra(x.expand(len(x), 200)).mean(dim=1, keepdim=True)


@pytest.mark.parametrize(("optimizer", "ema"), [("sgd", None), ("adamw", 0.9)])
def test_the_room_that_is_asked_for_is_what_checkpoints_take(optimizer: str, ema: float | None, tmp_path: Path) -> None:
    plan = FakePlan()
    plan.student = Wide()
    recipe = make_recipe(optimizer=Optimizer(name=optimizer), ema=ema, checkpoint_every=2)
    fit(plan, loader, recipe, **arguments(tmp_path, device="cpu"))
    taken = (tmp_path / "last.pt").stat().st_size
    assert 0.9 * taken - 10_000 < checkpoint_bytes(plan, recipe) < taken


def test_an_output_folder_that_is_a_file_is_refused_at_once(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdflow.experiment.teacher.fit", lambda *_, **__: pytest.fail("a teacher was trained"))
    (tmp_path / "file").write_text("")
    assert main(["run", "fitnet", "--bench", str(BENCH), "--output", str(tmp_path / "file"), "--device", "cpu"]) == 2
    err = capsys.readouterr().err
    assert "a file" in err
    assert "where a folder is needed" in err or "not a folder" in err
