from __future__ import annotations

import pytest

from kdflow.ports import Batch
from tests.toy import toy_batch


@pytest.fixture
def batch() -> Batch:
    """Two images, one of them without boxes."""
    return toy_batch(1, 0)
