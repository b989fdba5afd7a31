"""A detector's source builds its model in a process that never imports kdflow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from kdflow.ports import Detector

SCRIPT = """
import sys
import torch
from student import build
model = build()
model.load_state_dict(torch.load("weights.pth", weights_only=True))
assert not any(name.split(".")[0] == "kdflow" for name in sys.modules), "kdflow was imported"
model.eval()
with torch.no_grad():
    found = model([torch.load("image.pth", weights_only=True)])[0]
torch.save({key: value for key, value in found.items()}, "found.pth")
"""


def run_source(detector: Detector, folder: Path, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """Detections of the exported model on one unpadded image."""
    (folder / "student.py").write_text(detector.source())
    (folder / "check.py").write_text(SCRIPT)
    torch.save(detector.model.state_dict(), folder / "weights.pth")
    torch.save(image, folder / "image.pth")
    done = subprocess.run(
        [sys.executable, "check.py"], cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        env={"PATH": "", "PYTHONPATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "found.pth", weights_only=True)
