"""Weights of backbones that libraries know by name: which there are, and whether they are on this machine already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdflow.detectors.backbones import RESNETS, TIMM


@dataclass(frozen=True)
class KnownWeights:
    """Weights of a backbone alone.

    Attributes:
        name: For ``pretrained_backbone``.
        here: On this machine; else they are fetched on first use.
        source: Where they come from.
    """

    name: str
    here: bool
    source: str


def known_weights(backbone: str) -> KnownWeights | None:
    """Weights of a torchvision ResNet or a ``timm:`` backbone; those on this machine first. None where no library knows any."""
    if backbone.startswith(TIMM):
        return _of_timm(backbone.removeprefix(TIMM))
    return _of_torchvision(backbone) if backbone in RESNETS else None


def _of_torchvision(backbone: str) -> KnownWeights | None:
    import torch
    import torchvision

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    found = [(entry.name, entry.url) for entry in torchvision.models.get_model_weights(backbone)]
    known = [KnownWeights(name, (folder / url.rpartition("/")[2]).is_file(), url) for name, url in found]
    return next((weights for weights in known if weights.here), known[0] if known else None)


def _of_timm(backbone: str) -> KnownWeights | None:
    import timm
    import torch
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(backbone) if timm.is_model(backbone) else None
    if config is None or not config.has_weights:
        return None
    files = ("model.safetensors", "pytorch_model.bin")
    if config.hf_hub_id:
        here = any(isinstance(try_to_load_from_cache(config.hf_hub_id, file), str) for file in files)
        return KnownWeights("default", here, str(config.hf_hub_id))
    file = Path(torch.hub.get_dir()) / "checkpoints" / str(config.url).rpartition("/")[2]
    return KnownWeights("default", file.is_file(), str(config.url))
