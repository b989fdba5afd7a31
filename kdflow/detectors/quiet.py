"""Messages of libraries that are right, and need to be said once: a detector is built several times in one run."""

from __future__ import annotations

import logging
from functools import cache

NOISY = ("timm.models._builder",)
"""Loggers of what is said whenever a model is built with weights, such as the classifier's keys that a backbone leaves out."""


class Once(logging.Filter):
    """Lets every message pass the first time."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """True for a message that was not said before."""
        text = record.getMessage()
        first = text not in self._said
        self._said.add(text)
        return first


@cache
def say_once() -> None:
    """From now on libraries say each of their messages once in this process."""
    for name in NOISY:
        logging.getLogger(name).addFilter(Once())
