"""What happens to the student's BatchNorm layers in training: trained, frozen, or synchronised over processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdflow.errors import UsageError

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def batch_norms(module: nn.Module) -> dict[str, _BatchNorm]:
    """All BatchNorm layers by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)}


def prepare_norms(student: nn.Module, policy: str, world_size: int, device: torch.device) -> None:
    """Freeze (``frozen``) or synchronise (``sync``) the layers, in place, before the optimizer is built.

    Raises:
        UsageError: ``sync`` where torch cannot: several CPU processes, or BatchNorm classes that do more than the norm.
    """
    layers = batch_norms(student)
    if policy == "frozen":
        for layer in layers.values():
            layer.requires_grad_(False)
    if policy == "sync" and world_size > 1:
        _synchronise(layers, device)


def training_mode(plan: Any, policy: str) -> None:
    """``plan.train()`` under the policy: frozen layers keep their statistics, those of a teacher that trains as well."""
    plan.train()
    if policy == "frozen":
        for model in (plan.student, *plan.teachers.values()):
            for layer in batch_norms(model).values():
                layer.eval()


def _synchronise(layers: dict[str, _BatchNorm], device: torch.device) -> None:
    if device.type == "cpu":
        raise UsageError("recipe.norms: sync needs GPUs when several processes train; use train or frozen")
    for name, layer in layers.items():
        if type(layer) not in (*PLAIN, nn.SyncBatchNorm):
            raise UsageError(
                f"recipe.norms: {name} is a {type(layer).__name__}, which torch cannot synchronise; use train or frozen"
            )
        # The class is swapped in place so that every path by which the plan reaches the layer sees the change.
        layer.__class__ = nn.SyncBatchNorm
        layer.process_group = None  # type: ignore[assignment]
