"""SIGTERM ends a run after the step it is in."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interruption:
    """A flag that SIGTERM raises while the context is open; the previous handler is put back afterwards.

    Outside the main thread Python lets nobody handle signals; there the flag stays down.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._raise_flag)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _raise_flag(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
