"""The loader benchmark on a handful of images."""

from __future__ import annotations

import json

import pytest

from benchmarks import loader


def test_workers_are_compared_and_timed(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--workers", "0", "1", "--pixels", "64", "--size", "48", "--images", "6", "--batch", "2", "--batches", "1"]
    loader.main([*words, "--repeats", "2", "--warmup", "1", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["identical"] is True
    assert set(result["images_per_second"]) == {"0", "1"}
    assert all(rate["median"] > 0 for rate in result["images_per_second"].values())
    assert "do not depend on the number of workers" in loader.as_text(result)
