"""Which objects a detector found, and whether two forms of it find the same."""

from __future__ import annotations

from typing import Any

import torch

from kdflow.using.export.agree import compare, lacking
from kdflow.using.finder import Finder
from kdflow.using.look.matching import NOTHING, match


def thing(number: int, category: int, box: list[float], crowd: int = 0) -> dict[str, Any]:
    return {"id": number, "category_id": category, "bbox": box, "iscrowd": crowd}


def seen(category: int, box: list[float], score: float) -> dict[str, Any]:
    return {"category_id": category, "bbox": box, "score": score}


HERE, THERE = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 10.0, 10.0]


def test_the_best_score_takes_the_object_and_a_second_claim_is_wrong() -> None:
    done = match([thing(1, 0, HERE)], [seen(0, HERE, 0.6), seen(0, [1.0, 0.0, 10.0, 10.0], 0.9)], 0.3)
    assert done.found == {1}
    assert [one["score"] for one in done.false] == [0.6]
    assert done.pairs == {(0, 0): 1, (NOTHING, 0): 1}


def test_an_object_taken_for_another_class_is_missed_and_confused() -> None:
    done = match([thing(1, 0, HERE), thing(2, 1, THERE)], [seen(1, HERE, 0.9)], 0.3)
    assert done.missed == {1, 2}
    assert done.pairs == {(0, 1): 1, (1, NOTHING): 1}


def test_ignored_objects_are_neither_missed_nor_is_what_lies_on_them_wrong() -> None:
    done = match([thing(1, 0, HERE, crowd=1)], [seen(0, HERE, 0.9), seen(0, THERE, 0.9), seen(0, HERE, 0.1)], 0.3)
    assert (done.found, done.missed) == (frozenset(), frozenset())
    assert [one["bbox"] for one in done.false] == [THERE]


def found(*boxes: tuple[list[float], float, int]) -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.tensor([box for box, _, _ in boxes]).reshape(-1, 4),
        "scores": torch.tensor([score for _, score, _ in boxes]),
        "labels": torch.tensor([label for _, _, label in boxes], dtype=torch.long),
    }


def test_counterparts_need_class_score_and_box() -> None:
    one = found(([0.0, 0.0, 10.0, 10.0], 0.9, 0))
    assert lacking(one, found(([0.0, 0.0, 10.2, 10.0], 0.905, 0))) == 0
    assert lacking(one, found(([0.0, 0.0, 10.0, 10.0], 0.9, 1))) == 1
    assert lacking(one, found(([0.0, 0.0, 10.0, 10.0], 0.8, 0))) == 1
    assert lacking(one, found(([0.0, 0.0, 12.0, 10.0], 0.9, 0))) == 1
    assert (
        lacking(
            found(([0.0, 0.0, 9.0, 9.0], 0.5, 0), ([0.0, 0.0, 9.0, 9.0], 0.5, 0)), found(([0.0, 0.0, 9.0, 9.0], 0.5, 0))
        )
        == 1
    )


def test_forms_that_find_nothing_cannot_be_compared_and_extra_detections_count() -> None:
    nothing = Finder(("a",), False, lambda image: found())
    one = Finder(("a",), False, lambda image: found(([0.0, 0.0, 9.0, 9.0], 0.5, 0)))
    picture = torch.zeros(3, 8, 8, dtype=torch.uint8)
    assert not compare(nothing, nothing, [picture]).holds
    assert not compare(nothing, one, [picture]).holds
    assert compare(one, one, [picture, picture]).holds
