"""What timm says of weights is said once."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import timm
import torch

from kdflow.detectors.backbones import create_timm, timm_indices


def test_keys_that_a_backbone_leaves_out_are_named_once(tmp_path: Path, caplog: Any) -> None:
    state = timm.create_model("test_resnet").state_dict()
    torch.save({**state, "unknown.weight": torch.zeros(1)}, tmp_path / "w.pth")
    indices = timm_indices("test_resnet", (2, 3, 4, 5))
    with caplog.at_level(logging.WARNING, logger="timm"):
        for _ in range(3):
            create_timm("test_resnet", indices, str(tmp_path / "w.pth"))
    assert caplog.text.count("unknown.weight") == 1
