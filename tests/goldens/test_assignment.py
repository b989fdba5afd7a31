"""The assignment of the authors' LD code, prior by prior."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kdflow.functional.assignment import atss_assign
from tests.goldens.test_goldens import FOLDER

CASES = sorted((FOLDER / "ld").glob("case*.npz"))


def test_there_are_cases() -> None:
    assert CASES


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_assignment_and_thresholds_are_those_of_the_original_code(case: Path) -> None:
    arrays = {key: torch.as_tensor(value) for key, value in np.load(case).items()}
    levels = arrays["priors"].split(arrays["priors_per_level"].tolist())
    images = [key.rpartition(".")[2] for key in arrays if key.startswith("gt_boxes.")]
    assert images
    for image in images:
        found = atss_assign(levels, arrays[f"gt_boxes.{image}"], int(arrays["hp.atss_topk"]))
        assert torch.equal(found.indices, arrays[f"expected.assigned_gt.{image}"])
        torch.testing.assert_close(found.thresholds, arrays[f"expected.atss_threshold.{image}"], atol=1e-6, rtol=1e-5)
