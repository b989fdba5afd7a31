"""Backbones whose BatchNorms the library makes constants."""

from __future__ import annotations

import torch

from kdflow.ports import DETECTORS


def test_residual_branches_of_an_untrained_backbone_take_part() -> None:
    torch.manual_seed(0)
    detector = DETECTORS.get("conditional-detr").build(
        ("a", "b"), backbone="timm:test_resnet", d_model=32, encoder_layers=1, decoder_layers=1, heads=2, ffn=32
    )
    backbone = detector.model.model.backbone.model
    backbone(torch.randn(1, 3, 64, 64))[-1].sum().backward()
    convolutions = {n: p.grad for n, p in backbone.named_parameters() if "conv" in n}
    assert convolutions
    assert [name for name, grad in convolutions.items() if grad is None or not grad.any()] == []
