"""Who may work in a folder."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kdflow.tracking.lock import HeldError, alone, held

HOLD = """
import sys
from pathlib import Path
from kdflow.tracking.lock import held
with held(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_has_died(tmp_path: Path) -> None:
    words = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(HeldError, match=rf"in use by process {other.pid} on "), held(tmp_path / "run"):
            pass
        other.kill()
        other.wait()
    with held(tmp_path / "run"):
        assert f"process {other.pid} " not in (tmp_path / "run" / ".lock").read_text()
    assert (tmp_path / "run" / ".lock").read_text() == ""


def test_who_waits_is_told_for_whom(tmp_path: Path) -> None:
    said: list[str] = []
    told, inside = threading.Event(), threading.Event()

    def wait() -> None:
        with alone(tmp_path / "teacher", lambda words: (said.append(words), told.set())[0]):
            inside.set()

    with alone(tmp_path / "teacher"):
        thread = threading.Thread(target=wait)
        thread.start()
        assert told.wait(10)
        assert not inside.is_set()
    thread.join(10)
    assert inside.is_set()
    assert "in use by process" in said[0]
