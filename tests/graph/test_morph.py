"""Weights for networks of other depths and widths: blocks of torchvision, transformers and YOLOX."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d

from kdflow.detectors.yolox_model import CSP
from kdflow.graph.morph import morphed, residual_blocks

PICTURES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
DEPTHS = [1, 2, 1, 1]


def network(depths: list[int] = DEPTHS, width: int = 16, block: type[nn.Module] = Bottleneck, seed: int = 0) -> ResNet:
    """A ResNet whose norms are not those of a new one."""
    torch.manual_seed(seed)
    options = {"width_per_group": width} if block is Bottleneck else {}
    model = ResNet(block, depths, num_classes=3, **options).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
    return model


def inherited(model: nn.Module, parent: nn.Module) -> nn.Module:
    model.load_state_dict({**model.state_dict(), **morphed(model, parent.state_dict())})
    return model


def output(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(PICTURES)


@pytest.mark.parametrize(
    "grow",
    [
        lambda: network([1, 3, 2, 1], seed=1),
        lambda: network(width=24, seed=1),
        lambda: network([2, 2, 1, 2], width=32, seed=1),
    ],
    ids=["blocks", "channels", "both"],
)
def test_more_blocks_and_channels_change_nothing_at_first(grow: Callable[[], ResNet]) -> None:
    parent = network()
    torch.testing.assert_close(output(inherited(grow(), parent)), output(parent), rtol=0, atol=1e-10)


def test_new_blocks_without_bottleneck_or_with_constant_norms_change_nothing_either() -> None:
    parent = network(block=BasicBlock)
    torch.testing.assert_close(output(inherited(network([2, 2, 2, 1], block=BasicBlock, seed=1), parent)), output(parent))
    small, large = (ResNet(Bottleneck, d, norm_layer=FrozenBatchNorm2d).double().eval() for d in (DEPTHS, [1, 3, 1, 1]))
    torch.testing.assert_close(output(inherited(large, small)), output(small))


def test_equal_shapes_are_copied_and_every_stage_can_lose_channels_and_blocks() -> None:
    parent = network([2, 2, 2, 2])
    same = inherited(network([2, 2, 2, 2], seed=1), parent)
    assert all(torch.equal(value, parent.state_dict()[name]) for name, value in same.state_dict().items())
    assert torch.equal(output(inherited(network([2, 2, 2, 2], width=16, seed=2), parent)), output(parent))
    for smaller in (network([2, 2, 2, 2], width=8, seed=1), network([1, 2, 2, 2]), network([2, 2, 1, 1])):
        assert torch.isfinite(output(inherited(smaller, parent))).all()
        assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in parent.parameters())
    untouched = {name: value.clone() for name, value in parent.state_dict().items()}
    assert all(torch.equal(value, untouched[name]) for name, value in parent.state_dict().items())


def test_the_strongest_channels_are_kept() -> None:
    parent = network(width=16)
    block = parent.layer2[1]
    with torch.no_grad():  # an inner width of 32: all but 16 channels, spread over the block, say nothing
        for conv, norm in ((block.conv1, block.bn1), (block.conv2, block.bn2)):
            for part in (conv.weight, norm.weight, norm.bias, norm.running_mean):
                part[::2] = 0
    whole = output(nn.Sequential(parent.conv1, parent.bn1, parent.relu, parent.maxpool, parent.layer1, parent.layer2[0], block))
    pruned = network(width=8, seed=1)
    own = inherited(pruned, parent).layer2[1]
    for name in ("conv1", "conv2"):
        assert own.get_submodule(name).weight.shape[0] == 16
    assert torch.equal(own.conv1.weight, block.conv1.weight[1::2])
    front = nn.Sequential(parent.conv1, parent.bn1, parent.relu, parent.maxpool, parent.layer1, parent.layer2[0], own)
    torch.testing.assert_close(output(front), whole, rtol=0, atol=1e-10)


def test_blocks_of_yolox_are_known() -> None:
    torch.manual_seed(0)
    small, large = CSP(8, 8, 1, True, False).double().eval(), CSP(8, 8, 3, True, False).double().eval()
    large.load_state_dict({**large.state_dict(), **morphed(large, small.state_dict())})
    maps = torch.rand(1, 8, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(large(maps), small(maps))
    assert [block.keeps for block in residual_blocks(CSP(8, 8, 1, False, False))] == [False]


def test_everything_else_takes_the_part_in_common() -> None:
    wide, narrow = nn.Conv2d(4, 6, 1), nn.Conv2d(8, 3, 1)
    found = morphed(narrow, wide.state_dict())
    assert torch.equal(found["weight"][:, :4], wide.weight[:3])
    assert torch.equal(found["weight"][:, 4:], narrow.weight[:, 4:])
    assert torch.equal(found["bias"], wide.bias[:3])
    assert morphed(nn.Linear(4, 6), wide.state_dict()).keys() == {"bias"}
