from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from kdflow.errors import UsageError
from kdflow.kinds import CELL_VALUES, CELLS, DENSE, DENSE_VALUES, EDGES
from kdflow.operation import OPS
from kdflow.ops.taps.same_grid import same_grid
from kdflow.ops.transforms.cells import cells
from kdflow.ops.transforms.confidence import confidence
from kdflow.ops.transforms.edges import edges
from kdflow.ops.transforms.flatten import flatten
from kdflow.ops.transforms.map import to_map
from kdflow.ops.transforms.resize import resize
from kdflow.ops.transforms.same_size import same_size
from kdflow.ops.transforms.softmax import softmax
from kdflow.ops.transforms.standardize import standardize
from kdflow.ops.transforms.unit import unit

MAP_AXES = ("b", "c", "y", "x")


def maps(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + shape[-1]))


def test_equal_sizes_are_left_alone() -> None:
    features = maps(2, 3, 8, 8)
    assert resize(features, maps(2, 5, 8, 8)) is features


def test_bilinear_resizing_keeps_cell_centres_and_nearest_keeps_values() -> None:
    features, like = maps(2, 3, 4, 6), maps(2, 1, 8, 12)
    expected = functional.interpolate(features, size=(8, 12), mode="bilinear", align_corners=False)
    torch.testing.assert_close(resize(features, like), expected)
    assert set(resize(features, like, mode="nearest").unique().tolist()) == set(features.unique().tolist())


@pytest.mark.parametrize(("side", "size"), [("student", (8, 8)), ("teacher", (4, 4))])
def test_either_side_can_be_resized(side: str, size: tuple[int, int]) -> None:
    ours, theirs = [maps(2, 3, 4, 4)], [maps(2, 3, 8, 8)]
    sized = same_size(ours, theirs, resize=side)  # type: ignore[arg-type]
    assert {key: tuple(value[0].shape[-2:]) for key, value in sized.items()} == {"student": size, "teacher": size}
    kept = {"student": ours, "teacher": theirs}["teacher" if side == "student" else "student"]
    assert any(kept[0] is value[0] for value in sized.values())


def test_sizes_are_only_made_equal_for_equally_many_levels() -> None:
    with pytest.raises(UsageError, match="student has 1 levels, teacher 2"):
        same_size([maps(2, 3, 4, 4)], [maps(2, 3, 4, 4)] * 2)


def test_levels_on_the_same_grid_are_paired_whatever_their_index() -> None:
    ours, theirs = [maps(1, 2, s, s) for s in (16, 8, 4)], [maps(1, 3, s, s) for s in (8, 4, 2)]
    paired = same_grid(ours, theirs)
    assert [t.shape[-1] for t in paired["student"]] == [t.shape[-1] for t in paired["teacher"]] == [8, 4]
    with pytest.raises(UsageError, match="no level"):
        same_grid(ours[:1], theirs)


def test_moments_are_taken_in_single_precision() -> None:
    half = maps(2, 3, 4, 4).half()
    assert standardize(half).dtype == torch.float32
    assert standardize(half, half).dtype == torch.float32
    assert standardize(half.double()).dtype == torch.float64


def test_unit_takes_its_length_over_the_named_axes() -> None:
    features = maps(2, 3, 4, 4)
    whole = unit(features, over=("c", "y", "x"), axes=MAP_AXES)
    places = unit(features, over=("c",), axes=MAP_AXES)
    torch.testing.assert_close(whole.flatten(1).norm(dim=1), torch.ones(2))
    torch.testing.assert_close(places.norm(dim=1), torch.ones(2, 4, 4))
    with pytest.raises(UsageError, match="only c"):
        unit(features, over=("y", "x"))


def test_softmax_spans_several_axes_together() -> None:
    features = maps(2, 3, 4, 4) * 50
    spatial = softmax(features, over=("y", "x"), temperature=2.0, axes=MAP_AXES)
    torch.testing.assert_close(spatial, (features / 2).flatten(2).softmax(-1).reshape(features.shape))


def test_confidence_carries_no_gradient_in_a_graph_and_is_the_best_score() -> None:
    logits = maps(2, 6, 4)
    torch.testing.assert_close(confidence(logits), torch.sigmoid(logits).max(-1).values)
    assert OPS.get("transform.confidence").no_grad


def test_edges_split_channels_edge_by_edge() -> None:
    distribution = torch.arange(2 * 3 * 8).reshape(2, 3, 8)
    split = edges(distribution)
    assert split.shape == (2, 3, 4, 2)
    assert split[0, 0].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert OPS.get("transform.edges").output_kinds({"distribution": CELLS}) == EDGES
    with pytest.raises(UsageError, match="9 channels"):
        edges(torch.zeros(1, 1, 9))


def test_cells_and_maps_are_inverse() -> None:
    features = maps(2, 3, 4, 6)
    torch.testing.assert_close(to_map(cells(features), features), features)
    torch.testing.assert_close(cells(features)[0, 7], features[0, :, 1, 1])


def test_anchors_become_channels_of_the_map() -> None:
    per_anchor = maps(2, 2 * 3 * 5, 4)
    grid = to_map(per_anchor, maps(2, 1, 2, 3))
    assert grid.shape == (2, 20, 2, 3)
    torch.testing.assert_close(grid[1, 4:8, 1, 2], per_anchor[1, 5 * 5 + 1])
    with pytest.raises(UsageError, match="do not fit"):
        to_map(per_anchor, maps(2, 1, 4, 4))


def test_flatten_keeps_the_order_of_levels() -> None:
    levels = [maps(2, 6, 3), maps(2, 2, 3)]
    joined = flatten(levels)
    torch.testing.assert_close(joined[:, 6:], levels[1])
    numbers = [level[..., 0] for level in levels]
    torch.testing.assert_close(flatten(numbers, axes=("b", "r")), joined[..., 0])
    op = OPS.get("transform.flatten")
    assert op.output_kinds({"values": DENSE}) == CELLS
    assert op.output_kinds({"values": DENSE_VALUES}) == CELL_VALUES
