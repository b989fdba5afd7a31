"""Values on their way to a store: collected in the training loop, sent in batches by a thread of their own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from kdflow.errors import KdflowError, without_passwords

V = TypeVar("V")

BATCH = 1000
_log = logging.getLogger("kdflow.tracking")


class Writer(Generic[V]):
    """Sends values in order, at most ``BATCH`` at once, and never waits for the store inside the training loop.

    A batch that the store refuses is kept and sent again with the next one; :meth:`close` raises when that fails, too.

    Args:
        send: Writes one batch; may be slow, may raise.
        full: Number of waiting values that starts a transfer.
        seconds: Age of the oldest waiting value that starts one, so that a slow run can be watched.
    """

    def __init__(self, send: Callable[[Sequence[V]], None], full: int = 500, seconds: float = 15.0) -> None:
        self._send = send
        self._full = full
        self._seconds = seconds
        self._waiting: list[V] = []
        self._since = time.monotonic()
        self._thread: ThreadPoolExecutor | None = None
        self._transfer: Future[list[V]] | None = None
        self._problem: str = ""

    def add(self, values: Sequence[V]) -> None:
        """Take values over; returns at once."""
        self._waiting += values
        if len(self._waiting) >= self._full or time.monotonic() - self._since > self._seconds:
            self.start()

    def start(self) -> None:
        """Begin to send what is waiting, unless a transfer is under way."""
        if self._transfer is not None and not self._transfer.done():
            return
        self._collect()
        if not self._waiting:
            return
        values, self._waiting, self._since = self._waiting, [], time.monotonic()
        self._thread = self._thread or ThreadPoolExecutor(max_workers=1, thread_name_prefix="kdflow-tracking")
        self._transfer = self._thread.submit(self._deliver, values)

    def finish(self, attempts: int = 3, pause: float = 0.5) -> bool:
        """Wait until everything is sent; False when the store still refuses after some attempts."""
        for attempt in range(attempts):
            if attempt:
                time.sleep(pause)
            self._collect()
            self.start()
            self._collect()
            if not self._waiting:
                return True
        return False

    def close(self) -> None:
        """Send the rest and end the thread; raises KdflowError with the number of values that are lost."""
        sent = self.finish()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
        if not sent:
            lost, self._waiting = len(self._waiting), []
            raise KdflowError(f"{lost} values could not be written to the tracking store: {self._problem}")

    def _deliver(self, values: list[V]) -> list[V]:
        """Send batch by batch; returns what could not be sent."""
        for first in range(0, len(values), BATCH):
            try:
                self._send(values[first:first + BATCH])
            except Exception as error:  # the store is foreign code, and training must not stop for it
                problem = without_passwords((str(error) or type(error).__name__).splitlines()[0])
                if problem != self._problem:
                    _log.warning("the tracking store refuses values, they are kept and sent again: %s", problem)
                self._problem = problem
                return values[first:]
        return []

    def _collect(self) -> None:
        """Wait for the transfer under way and take back what it could not send."""
        if self._transfer is not None:
            self._waiting = [*self._transfer.result(), *self._waiting]
            self._transfer = None
