from __future__ import annotations

import pytest
import torch

from kdflow.errors import UsageError
from kdflow.ops.adapters.conv import ConvAdapter
from kdflow.ops.adapters.linear import LinearAdapter
from kdflow.ops.adapters.regress import Regressor


def maps(channels: int, side: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(seed))


def built(module: torch.nn.Module, *inputs: torch.Tensor) -> torch.nn.Module:
    torch.manual_seed(0)
    module.build(*inputs)  # type: ignore[operator]
    return module


def test_the_channels_come_from_the_teacher_the_option_or_the_input() -> None:
    assert built(ConvAdapter(), maps(3), maps(5))(maps(3)).shape == (2, 5, 8, 8)
    assert built(ConvAdapter(channels=7), maps(3), maps(5))(maps(3)).shape == (2, 7, 8, 8)
    assert built(ConvAdapter(kernel=3), maps(3))(maps(3)).shape == (2, 3, 8, 8)
    assert built(ConvAdapter(kernel=3, stride=2), maps(3))(maps(3)).shape == (2, 3, 4, 4)


def test_equal_channels_still_get_a_layer_of_their_own() -> None:
    module = built(ConvAdapter(), maps(4), maps(4))
    assert sorted(module.state_dict()) == ["conv.bias", "conv.weight"]


def test_small_normal_weights_are_tiny_cut_at_two_deviations_and_keep_the_bias() -> None:
    module = built(ConvAdapter(kernel=3, init="small_normal"), maps(16))
    weight, plain = module.conv.weight, built(ConvAdapter(kernel=3), maps(16)).conv  # type: ignore[union-attr]
    assert weight.abs().max() <= 2e-4
    assert 0.7e-4 < weight.std() < 1e-4
    assert 0 < module.conv.bias.abs().max() <= plain.bias.abs().max() * 1.5  # type: ignore[union-attr]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kernel", [1, 3])
def test_identity_passes_maps_on(kernel: int, groups: int) -> None:
    features = maps(4)
    module = built(ConvAdapter(kernel=kernel, groups=groups, init="identity"), features)
    torch.testing.assert_close(module(features), features)


@pytest.mark.parametrize(("kernel", "stride"), [(4, 2), (3, 2), (2, 2), (1, 2), (3, 1), (5, 3), (2, 3)])
def test_a_transposed_convolution_multiplies_the_size_by_its_stride(kernel: int, stride: int) -> None:
    module = built(ConvAdapter(kernel=kernel, stride=stride, transposed=True), maps(3, 6), maps(5, 6 * stride))
    assert module(maps(3, 6)).shape == (2, 5, 6 * stride, 6 * stride)
    assert isinstance(module.conv, torch.nn.ConvTranspose2d)


def test_a_transposed_convolution_is_the_one_of_the_regressor() -> None:
    ours = built(ConvAdapter(kernel=4, stride=2, transposed=True, norm="batch", activation="relu"), maps(3, 6), maps(4, 12))
    theirs = built(Regressor(), maps(3, 6), maps(4, 12))
    torch.testing.assert_close(ours(maps(3, 6)), theirs(maps(3, 6), maps(4, 12)))


def test_equal_widths_need_a_layer_where_the_size_changes() -> None:
    assert built(ConvAdapter(stride=2, when="widths_differ"), maps(3))(maps(3)).shape == (2, 3, 4, 4)
    assert built(ConvAdapter(when="widths_differ"), maps(3)).conv is None


def test_identity_is_refused_where_the_size_changes_by_transposing() -> None:
    with pytest.raises(UsageError, match="identity is not for transposed"):
        built(ConvAdapter(kernel=4, stride=2, transposed=True, init="identity"), maps(3))


def test_kaiming_counts_the_outputs_of_a_transposed_convolution() -> None:
    layer = built(ConvAdapter(kernel=4, stride=2, transposed=True, init="kaiming", channels=64), maps(8)).conv
    assert layer.weight.std().item() == pytest.approx((2 / (64 * 16)) ** 0.5, rel=0.1)  # type: ignore[union-attr]


def test_identity_needs_equal_channels() -> None:
    with pytest.raises(UsageError, match="as many output as input channels"):
        built(ConvAdapter(init="identity"), maps(3), maps(4))


def test_zero_gives_zeros_and_kaiming_does_not() -> None:
    assert built(ConvAdapter(init="zero"), maps(3))(maps(3)).abs().sum() == 0
    kaiming = built(ConvAdapter(kernel=3, init="kaiming", channels=64), maps(8))
    assert kaiming.conv.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)  # type: ignore[union-attr]


def test_norm_and_activation_follow_the_convolution() -> None:
    module = built(ConvAdapter(norm="batch", activation="relu"), maps(3), maps(4))
    result = module(maps(3))
    assert {"bn.weight", "bn.bias", "bn.running_mean"} <= set(module.state_dict())
    assert result.min() == 0
    assert 0.3 < (result > 0).float().mean() < 0.7


@pytest.mark.parametrize(
    ("ours", "theirs", "layer", "kernel"),
    [(16, 8, torch.nn.Conv2d, (3, 3)), (6, 12, torch.nn.ConvTranspose2d, (4, 4)), (8, 8, torch.nn.Conv2d, (1, 1)),
     (9, 7, torch.nn.Conv2d, (3, 3))],
)
def test_the_regressor_reaches_the_teachers_size(
    ours: int, theirs: int, layer: type[torch.nn.Module], kernel: tuple[int, int]
) -> None:
    module = built(Regressor(), maps(3, ours), maps(4, theirs))
    result = module(maps(3, ours), maps(4, theirs))
    assert result.shape == (2, 4, theirs, theirs)
    assert result.min() == 0
    assert isinstance(module.conv, layer)
    assert module.conv.kernel_size == kernel  # type: ignore[union-attr]


def test_the_regressor_refuses_what_it_cannot_reach() -> None:
    with pytest.raises(UsageError, match="5x5 to 8x8"):
        built(Regressor(), maps(3, 5), maps(4, 8))


def test_the_linear_adapter_works_on_the_last_axis() -> None:
    rows, tokens = torch.randn(7, 3), torch.randn(2, 5, 6)
    module = built(LinearAdapter(), rows, tokens)
    assert module(rows).shape == (7, 6)
    same = built(LinearAdapter(init="identity"), tokens)
    torch.testing.assert_close(same(tokens), tokens)
    assert built(LinearAdapter(bias=False, channels=2), tokens).linear.bias is None  # type: ignore[union-attr]
