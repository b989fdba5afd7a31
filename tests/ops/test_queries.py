"""Paired and chosen queries of decoders."""

from __future__ import annotations

import pytest
import torch

from kdflow.errors import UsageError
from kdflow.ops.adapters.linear import LinearAdapter
from kdflow.ops.attention.queries import queries as attend
from kdflow.ops.losses.contrastive import contrastive
from kdflow.ops.matching.predictions import predictions
from kdflow.ops.matching.take import take
from kdflow.ops.queries.of_boxes import of_boxes
from kdflow.ops.queries.overlap import overlap
from kdflow.ops.queries.take import take as take_queries
from kdflow.ops.queries.top import top
from kdflow.ops.transforms.boxes import boxes as convert


def decoder(seed: int, queries: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    logits = [torch.randn(2, queries, 3, generator=generator) for _ in range(2)]
    return logits, [0.1 + torch.rand(2, queries, 4, generator=generator) * 0.5 for _ in range(2)]


def test_pairs_are_rows_of_the_same_number_on_both_sides() -> None:
    (ours, our_boxes), (theirs, their_boxes) = decoder(0, 4), decoder(1, 6)
    pairs = predictions(ours, theirs, our_boxes, their_boxes)
    a, b = take(ours, pairs), take(theirs, pairs, side="teacher")
    assert [len(x) for x in a] == [len(x) for x in b] == [8, 8]
    assert torch.equal(a[1][4:], ours[1][1])


def test_swapping_student_queries_swaps_rows_together() -> None:
    (ours, our_boxes), (theirs, their_boxes) = decoder(0, 5), decoder(1, 5)
    order = torch.tensor([4, 2, 0, 1, 3])
    shuffled, shuffled_boxes = ([x[:, order] for x in side] for side in (ours, our_boxes))

    def loss(logits: list[torch.Tensor], boxes: list[torch.Tensor]) -> torch.Tensor:
        pairs = predictions(logits, theirs, boxes, their_boxes)
        return (take(boxes, pairs)[0] - take(their_boxes, pairs, side="teacher")[0]).abs().sum()

    torch.testing.assert_close(loss(ours, our_boxes), loss(shuffled, shuffled_boxes))


def test_unequal_numbers_of_layers_are_refused() -> None:
    (ours, our_boxes), (theirs, their_boxes) = decoder(0, 4), decoder(1, 4)
    with pytest.raises(UsageError, match=r"2 layers, the teacher 1.*decoder\.logits\[0:3\]"):
        predictions(ours, theirs[:1], our_boxes, their_boxes[:1])
    with pytest.raises(UsageError, match="1 layers of values and 2 layers of pairs"):
        take(ours[:1], predictions(ours, theirs, our_boxes, their_boxes))


def test_a_query_may_be_chosen_for_several_classes() -> None:
    logits = torch.tensor([[[3.0, 2.0], [-1.0, 1.0], [-5.0, -5.0]]])
    best = top(logits, k=3)
    assert best["index"].tolist() == [[0, 0, 1]]
    assert best["labels"].tolist() == [[0, 1, 1]]
    chosen = take_queries(logits, best["index"])
    assert torch.equal(chosen[0, 1], logits[0, 0])


def test_overlap_is_the_best_of_the_image_or_the_stated_value() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10]], [[0.0, 0, 10, 10]]])
    found = overlap(boxes, [torch.tensor([[0.0, 0, 10, 5], [20, 20, 30, 30]]), torch.zeros(0, 4)], empty=1.0)
    assert found.tolist() == [[0.5], [1.0]]


def test_boxes_are_clipped_to_their_own_image() -> None:
    box = torch.tensor([[[0.9, 0.5, 0.4, 0.2]]])
    torch.testing.assert_close(convert(box, [(10, 20)], to="pixels", clip=True), torch.tensor([[[14.0, 4, 20, 6]]]))
    torch.testing.assert_close(convert(box, to="cxcywh", clip=True), torch.tensor([[[0.85, 0.5, 0.3, 0.2]]]))
    with pytest.raises(UsageError, match="image_sizes: image_sizes"):
        convert(box, to="pixels")


def test_attention_does_not_depend_on_the_length_of_the_map() -> None:
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(2, 4, 3, 5, generator=generator)]
    states, weights = [torch.randn(2, 6, 4, generator=generator)], [torch.rand(2, 6, generator=generator)]
    mask = attend(features, states, weights)
    torch.testing.assert_close(attend([features[0] * 7], states, weights), mask)
    assert mask[0].amax() == 1
    assert mask[0].amin() > 0
    both = attend(features, states * 2, weights * 2)
    torch.testing.assert_close(both[0], 2 * mask[0])


def test_attention_asks_for_an_adapter_at_unequal_widths() -> None:
    with pytest.raises(UsageError, match=r"adapter\.linear"):
        attend([torch.rand(1, 4, 2, 2)], [torch.rand(1, 3, 5)], [torch.rand(1, 3)])


def test_the_contrast_of_perfect_and_of_useless_rows() -> None:
    perfect = contrastive(torch.eye(3), torch.eye(3), temperature=0.05)
    assert perfect.max() < 1e-6
    useless = contrastive(torch.ones(4, 2), torch.ones(4, 2))
    torch.testing.assert_close(useless, torch.full((4,), 4.0).log())


def test_a_normalised_adapter_takes_single_rows_in_training() -> None:
    head = LinearAdapter(channels=4, norm="batch", activation="relu")
    head.build(torch.zeros(2, 3))
    assert torch.isfinite(head(torch.ones(1, 3))).all()
    assert head(torch.zeros(0, 3)).shape == (0, 4)
    assert head(torch.rand(2, 5, 3)).shape == (2, 5, 4)


def test_queries_of_boxes_stand_at_them_and_are_filled_up() -> None:
    two, one = torch.tensor([[0.0, 0.0, 40.0, 20.0], [10.0, 10.0, 20.0, 30.0]]), torch.tensor([[0.0, 0.0, 80.0, 40.0]])
    found = of_boxes([two, torch.zeros(0, 4), one], [(40, 80), (40, 80), (80, 160)])
    assert found["real"].tolist() == [[1, 1], [0, 0], [1, 0]]
    references = found["queries"]["references"]
    torch.testing.assert_close(references[0], torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.1875, 0.5, 0.125, 0.5]]))
    torch.testing.assert_close(references[2, 0], torch.tensor([0.25, 0.25, 0.5, 0.5]))
    assert found["queries"]["real"] is found["real"]
    assert (references > 0).all()
    assert (references < 1).all()
    assert of_boxes([torch.zeros(0, 4)], [(8, 8)])["real"].tolist() == [[0]]
