from __future__ import annotations

from collections.abc import Iterator

import pytest

from kdflow.engine.machine import Machine, open_machine


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    with open_machine("cpu") as opened:
        yield opened
