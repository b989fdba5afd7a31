"""Whatever bytes the files of a run hold: they are read, they count as absent, or one KdflowError says what is wrong."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kdflow.compare.verify import read_file
from kdflow.detectors.weights import _exported_classes
from kdflow.engine.checkpoint import LAST, BrokenCheckpointError, Checkpoints, read
from kdflow.engine.journal import NAME, Journal
from kdflow.errors import KdflowError
from kdflow.events import StepEvent
from kdflow.experiment.filled import SPEC, WEIGHTS, _older, read_weights
from kdflow.experiment.findings import read_detections
from kdflow.experiment.result import RESULT, RunResult
from kdflow.experiment.sweep import Job, record_of
from kdflow.files import read_json
from kdflow.using.saved import STUDENT, reopen

few = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
numbers = st.sampled_from([0, 1, -1, 0.5, 2**63, 10**400, float("nan"), float("inf"), "1", "x", None, True])
values = st.recursive(
    numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
RESULT_FACTS: dict[str, Any] = {
    "method": "pkd", "bench": "tiny", "seed": 0, "run_id": None, "status": "finished", "metrics": {"AP": 1.0}, "validation": {},
    "step_ms": None, "resumed_from_step": 0, "teacher_stages_run": [], "teacher_stages_pruned": [], "student_path": None,
    "folder": "runs", "reason": "", "pictures": {}, "teachers": {}, "classes": {"cat": {"objects": 3, "AP": 1.0}},
}
STEP = StepEvent(3, 12, "", 1.0, {"det/loss": 1.0}, {"det/loss": 1.0}, 0.1, 0.01, 20.0)


def cut(text: str) -> Any:
    """A text with a piece replaced, or any bytes."""
    pieces = st.tuples(st.integers(0, len(text)), st.integers(0, 20), st.text(max_size=5))
    broken = pieces.map(lambda p: (text[: p[0]] + p[2] + text[p[0] + p[1] :]).encode("utf-8", "surrogatepass"))
    return st.binary(max_size=60) | broken


def any_file_of_a_run(folder: Path) -> None:
    """Everything that looks into a run's folder."""
    assert RunResult.read(folder / RESULT, lambda _: None) is None or read_json(folder / RESULT) is not None
    read_detections(folder / RESULT)
    assert all(isinstance(value, (int, float)) for value in read_weights(folder).values())
    _older(folder / SPEC)
    with suppress(KdflowError):
        saved = reopen(folder)
        assert saved.result is None or saved.result.metrics is not None
    with suppress(KdflowError):
        read_file(folder / RESULT)
    job = Job("pkd", "tiny", 0, {}, hash="any")
    found = record_of(job, folder)
    assert found is None or isinstance(found.metrics, dict)


@few
@given(content=cut(json.dumps(RESULT_FACTS)), name=st.sampled_from([RESULT, WEIGHTS, SPEC, "sweeps/any.json"]))
@example(content=b"[" * 100_000, name=RESULT)
@example(content=b"[" * 100_000, name=SPEC)
@example(content=b"\xff", name=SPEC)
@example(content=b'{"a": ' + b"9" * 5000 + b"}", name="sweeps/any.json")
def test_any_bytes_in_the_folder_of_a_run(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / "sweeps").mkdir(exist_ok=True)
    for known in (STUDENT, SPEC):
        (tmp_path / known).touch()
    (tmp_path / name).write_bytes(content)
    any_file_of_a_run(tmp_path)


@few
@given(key=st.sampled_from(sorted(RESULT_FACTS)), value=values, name=st.sampled_from([RESULT, WEIGHTS, "sweeps/any.json"]))
def test_any_values_in_the_folder_of_a_run(tmp_path: Path, key: str, value: Any, name: str) -> None:
    (tmp_path / "sweeps").mkdir(exist_ok=True)
    (tmp_path / name).write_text(json.dumps({**RESULT_FACTS, key: value}))
    any_file_of_a_run(tmp_path)


def test_a_result_of_wrong_values_counts_as_absent_and_a_right_one_is_read(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / RESULT).write_text(json.dumps({**RESULT_FACTS, "metrics": [], "seed": "x"}))
    assert RunResult.read(tmp_path / RESULT, said.append) is None
    assert "(metrics, seed), so it counts as absent" in said[0]
    (tmp_path / RESULT).write_text(json.dumps({**RESULT_FACTS, "teacher_stages_run": ["neck"]}))
    found = RunResult.read(tmp_path / RESULT)
    assert found is not None
    assert (found.metrics, found.teacher_stages_run) == ({"AP": 1.0}, ("neck",))


@pytest.fixture
def journal(tmp_path: Path) -> str:
    written = Journal(tmp_path, "r1", keep=False)
    written.add(STEP)
    return (tmp_path / NAME).read_text()


@few
@given(data=st.data())
def test_any_bytes_as_a_journal(tmp_path: Path, journal: str, data: st.DataObject) -> None:
    (tmp_path / NAME).write_bytes(data.draw(cut(journal)))
    assert set(Journal(tmp_path, "r1", keep=True).steps) <= {3}


@pytest.mark.parametrize("line", ["[]", "5", '{"event": "step"}', '{"event": "step", "step": "x"}', '{"x": 1}', "[" * 100_000])
def test_a_journal_is_read_up_to_the_first_line_that_is_none(tmp_path: Path, journal: str, line: str) -> None:
    later = json.dumps({**json.loads(journal.splitlines()[1]), "step": 6})
    (tmp_path / NAME).write_text(f"{journal}{line}\n{later}\n")
    assert Journal(tmp_path, "r1", keep=True).steps == {3: STEP}


@few
@given(key=st.sampled_from(["step", "raw", "total", "event"]), value=values)
def test_any_values_in_a_journal(tmp_path: Path, journal: str, key: str, value: Any) -> None:
    head, line = journal.splitlines()
    (tmp_path / NAME).write_text(f"{head}\n{json.dumps({**json.loads(line), key: value})}\n")
    kept = Journal(tmp_path, "r1", keep=True)
    assert all(type(step) is int for step in (*kept.steps, *kept.evaluations))


def checkpoint() -> bytes:
    stream = io.BytesIO()
    torch.save({"kdflow": 1, "run": "r1", "world_size": 1, "plan": {"weight": torch.ones(3)}}, stream)
    return stream.getvalue()


WHOLE = checkpoint()


@few
@given(
    at=st.integers(0, len(WHOLE) - 1), bits=st.integers(0, 255), end=st.sampled_from([len(WHOLE)] * 4 + [0, 10, len(WHOLE) // 2])
)
@example(at=0, bits=WHOLE[0], end=len(WHOLE))
def test_any_damage_to_a_checkpoint(tmp_path: Path, at: int, bits: int, end: int) -> None:
    (tmp_path / LAST).write_bytes((WHOLE[:at] + bytes([bits]) + WHOLE[at + 1 :])[:end])
    with suppress(BrokenCheckpointError):
        assert torch.equal(read(tmp_path / LAST)["plan"]["weight"], torch.ones(3))
    with suppress(KdflowError):
        Checkpoints(tmp_path, "r1").load()


@pytest.mark.parametrize("state", [{"kdflow": 1}, {"kdflow": 1, "run": "r1"}, [], 5, {"kdflow": torch.ones(2)}])
def test_a_file_of_torch_that_is_no_checkpoint_is_passed_over(tmp_path: Path, state: Any) -> None:
    torch.save(state, tmp_path / LAST)
    with pytest.raises(KdflowError, match="not a checkpoint"):
        Checkpoints(tmp_path, "r1").load()


@few
@given(content=cut("CLASSES = ('cat', 'dog')\n"))
@example(content=b"CLASSES = " + b"(" * 50_000)
@example(content=b"CLASSES = " + b"-" * 50_000 + b"1")
@example(content=b"CLASSES = 1\0")
def test_any_bytes_as_the_code_beside_weights(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "student.py").write_bytes(content)
    found = _exported_classes(tmp_path / "student.pt")
    assert found is None or all(isinstance(name, str) for name in found)
