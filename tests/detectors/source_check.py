"""Detectors' sources build their models in a process that never imports kdflow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from kdflow.ports import Detector

SCRIPT = """
import importlib
import sys
import torch
for name in sys.argv[1:]:
    model = importlib.import_module(f"student_{name}").build()
    model.load_state_dict(torch.load(f"{name}.pth", weights_only=True))
    with torch.no_grad():
        found = model.eval()([torch.load("image.pth", weights_only=True)])[0]
    torch.save(dict(found), f"{name}_found.pth")
assert not any(name.split(".")[0] == "kdflow" for name in sys.modules), "kdflow was imported"
"""


def run_sources(
    detectors: Mapping[str, Detector], folder: Path, image: torch.Tensor
) -> dict[str, dict[str, torch.Tensor]]:
    """Detections of the exported models on one unpadded image; names must be good module names."""
    (folder / "check.py").write_text(SCRIPT)
    torch.save(image, folder / "image.pth")
    for name, detector in detectors.items():
        (folder / f"student_{name}.py").write_text(detector.source().text())
        torch.save(detector.model.state_dict(), folder / f"{name}.pth")
    done = subprocess.run(
        [sys.executable, "check.py", *detectors],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={"PATH": "", "PYTHONPATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return {name: torch.load(folder / f"{name}_found.pth", weights_only=True) for name in detectors}
