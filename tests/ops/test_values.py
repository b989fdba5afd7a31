from __future__ import annotations

import pytest
import torch

from kdflow.kinds import LABELS, ROW_VALUES, ROWS
from kdflow.operation import OPS
from kdflow.ops.stats.count import count
from kdflow.ops.values.best_class import best_class
from kdflow.ops.values.centerness import centerness
from kdflow.ops.values.compare import compare
from kdflow.ops.values.formula import formula

A, B = torch.tensor([True, True, False, False]), torch.tensor([1.0, 0.0, 1.0, 0.0])


def test_booleans_and_weights_combine() -> None:
    assert formula(A, "a * b", B).tolist() == [1, 0, 0, 0]
    assert formula(A, "max(a, b)", B).tolist() == [1, 1, 1, 0]
    assert formula(B, "1 - a").tolist() == [0, 1, 0, 1]
    assert formula(A, "a / b", B).tolist() == [1, 0, 0, 0]                 # nothing is shared out among nobody
    assert formula(A, "a * b", B * 0.5).tolist() == [0.5, 0.0, 0.0, 0.0]


def test_ignored_labels_count_as_false() -> None:
    labels = torch.tensor([-1, 0, 1])
    assert compare(labels).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("relation", "expected"),
    [("==", [0, 1, 0]), ("!=", [1, 0, 1]), ("<", [1, 0, 0]), ("<=", [1, 1, 0]), (">", [0, 0, 1]), (">=", [0, 1, 1])],
)
def test_every_relation_compares_with_a_number_or_with_values(relation: str, expected: list[int]) -> None:
    values = torch.tensor([1.0, 2.0, 3.0])
    assert compare(values, relation=relation, to=2.0).int().tolist() == expected  # type: ignore[arg-type]
    assert compare(values, torch.full((3,), 2.0), relation=relation).int().tolist() == expected  # type: ignore[arg-type]


def test_a_margin_moves_the_bound() -> None:
    student, teacher = torch.tensor([1.0, 1.3]), torch.tensor([1.0, 1.0])
    assert compare(student, teacher, relation=">", to=0.2).tolist() == [False, True]


def test_a_teacher_is_right_where_its_best_class_is_the_label() -> None:
    logits, labels = torch.tensor([[1.0, 3.0, 2.0], [5.0, 1.0, 0.0]]), torch.tensor([1, 2])
    assert compare(best_class(logits), labels, relation="==").tolist() == [True, False]
    assert OPS.get("values.best_class").output_kinds({"logits": ROWS}) == ROW_VALUES
    assert ROW_VALUES != LABELS


def test_counts_leave_out_zeros_and_ignored_entries() -> None:
    assert count([torch.tensor([True, False]), torch.tensor([True])]).item() == 2
    assert count(torch.tensor([-1, 0, 1, 3])).item() == 2


def test_centerness_uses_the_middle_of_each_prior() -> None:
    priors = [torch.tensor([[4.0, 4.0, 6.0, 6.0], [0.0, 0.0, 2.0, 2.0]])]
    matched = [torch.tensor([[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 0.0, 0.0]]])]
    assert centerness(priors, matched)[0].tolist() == [[1.0, 0.0]]
