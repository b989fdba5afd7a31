"""Checkpoints of a run: written so that a kill at any moment leaves a whole one, and read with suspicion.

``last.pt`` is the newest, ``previous.pt`` the one before, ``best.pt`` holds the student of the best evaluation.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdflow.errors import UsageError
from kdflow.files import in_words

FORMAT = 1
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"


@dataclass(frozen=True)
class Found:
    """What was read back.

    Attributes:
        state: The saved state.
        notes: What had to be passed over, in words.
    """

    state: dict[str, Any]
    notes: tuple[str, ...] = ()


class BrokenCheckpointError(Exception):
    """The file is cut off or damaged."""


class Writer:
    """Where files are written: in the loop, or beside it by one thread, one file after the other.

    Args:
        beside: Write beside the loop.
    """

    def __init__(self, beside: bool = False) -> None:
        self._pool = ThreadPoolExecutor(1, "checkpoints") if beside else None
        self._last: Future[None] | None = None

    def own(self, state: Any) -> Any:
        """The state as it is now, on the CPU, where training goes on while it is written; else the state itself."""
        return state if self._pool is None else _copied(state)

    def do(self, work: Callable[[], None]) -> None:
        """Do the work once what was asked for before is done; raises what went wrong with that."""
        if self._pool is None:
            work()
            return
        self.finish()
        self._last = self._pool.submit(work)

    def finish(self) -> None:
        """Return when all is written; raises what went wrong."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def settle(self) -> None:
        """Return when nothing is being written any more, and let the thread go."""
        if self._last is not None:
            wait([self._last])
        if self._pool is not None:
            self._pool.shutdown()


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_copied, value))
    return value


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoint files of one run.

    Attributes:
        folder: Where they lie; made when the first is written.
        run_hash: Identity of the run; checkpoints of another run are refused.
        world_size: Processes that train together; the position in the data depends on it.
        writer: Who writes; one that writes beside the loop is at work until :meth:`finish`.
    """

    folder: Path
    run_hash: str = ""
    world_size: int = 1
    writer: Writer = field(default_factory=Writer)

    def save(self, state: Mapping[str, Any]) -> None:
        """Make ``state`` the newest checkpoint and keep the one before."""
        content = self.writer.own(self._labelled(state))
        self.writer.do(lambda: self._keep(content))

    def finish(self) -> None:
        """Return when all is written; raises WriteError where it could not be."""
        self.writer.finish()

    def settle(self) -> None:
        """Return when nothing is being written any more, whether or not it could be."""
        self.writer.settle()

    def _keep(self, content: Mapping[str, Any]) -> None:
        with in_words(self.folder / LAST):
            written = _write(self.folder / LAST, content)
            if (self.folder / LAST).exists():
                # A hard link first, so that at no moment there is no last.pt.
                link = self.folder / f"{PREVIOUS}.new"
                link.unlink(missing_ok=True)
                os.link(self.folder / LAST, link)
                os.replace(link, self.folder / PREVIOUS)
            _publish(written, self.folder / LAST)

    def save_best(self, state: Mapping[str, Any]) -> None:
        """Replace the best student."""
        content = self.writer.own(self._labelled(state))

        def work() -> None:
            with in_words(self.folder / BEST):
                _publish(_write(self.folder / BEST, content), self.folder / BEST)

        self.writer.do(work)

    def load(self) -> Found | None:
        """The newest whole checkpoint, or None where there is none.

        Raises:
            UsageError: It belongs to another run or to another number of processes.
        """
        notes: list[str] = []
        for name in (LAST, PREVIOUS):
            path = self.folder / name
            if not path.exists():
                continue
            try:
                state = read(path)
            except BrokenCheckpointError as fault:
                notes.append(f"{path}: {fault}; it was passed over")
                continue
            self._check(path, state)
            return Found(state, tuple(notes))
        if notes:
            raise UsageError("; ".join(notes) + ". No whole checkpoint is left: delete the folder to start again")
        return None

    def clear(self) -> None:
        """Delete the run's checkpoints."""
        for name in (LAST, PREVIOUS, BEST):
            (self.folder / name).unlink(missing_ok=True)

    def _labelled(self, state: Mapping[str, Any]) -> dict[str, Any]:
        return {"kdflow": FORMAT, "run": self.run_hash, "world_size": self.world_size, **state}

    def _check(self, path: Path, state: Mapping[str, Any]) -> None:
        if state["run"] != self.run_hash:
            raise UsageError(
                f'{path} was written by run "{state["run"]}", this is run "{self.run_hash}": the spec, bench, seed or '
                "code differ. Restore them to resume, or start again in another folder (or without resuming)"
            )
        if state["world_size"] != self.world_size:
            raise UsageError(
                f"{path} was written by {state['world_size']} processes and {self.world_size} are running; "
                "start as many as before to resume"
            )


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's content on the CPU; plain tensors and Python values only, nothing in it is executed.

    Raises:
        BrokenCheckpointError: The file is cut off, damaged or no checkpoint.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise BrokenCheckpointError(f"damaged at {damaged}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except BrokenCheckpointError:
        raise
    except Exception as fault:  # zipfile, pickle and torch each have their own words for damage
        raise BrokenCheckpointError(f"cut off or damaged ({type(fault).__name__})") from fault
    labels = {"kdflow": int, "run": str, "world_size": int}
    labelled = isinstance(state, dict) and all(isinstance(state.get(key), form) for key, form in labels.items())
    if not labelled or state["kdflow"] != FORMAT:
        raise BrokenCheckpointError("not a checkpoint of this kdflow")
    return state


def _write(target: Path, state: Mapping[str, Any]) -> Path:
    """Write beside ``target`` and flush to the disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.new")
    try:
        with temporary.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError):
        temporary.unlink(missing_ok=True)  # a full disk is not kept full by half a file
        raise
    return temporary


def _publish(temporary: Path, target: Path) -> None:
    os.replace(temporary, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
