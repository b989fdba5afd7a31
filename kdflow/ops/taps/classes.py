"""A teacher's classes in the student's order, where both know the same classes by name."""

from __future__ import annotations

import torch

from kdflow.kinds import AnyTensor, Detections
from kdflow.operation import like, op


@op("tap.class_scores", gives=like("values"), example={"order": (1, 0)})
def class_scores(values: AnyTensor, order: tuple[int, ...], block: int = 1) -> AnyTensor:
    """Reorder the class axis, the last one.

    Args:
        values: (..., C * block); columns behind the classes (a background) stay last.
        order: Entry i is the column that becomes class i.
        block: Columns per class (4 for class-specific box deltas).

    Returns:
        The same shape; gradient flows to ``values``.
    """
    classes = values.shape[-1] // block
    index = torch.tensor([*order, *range(len(order), classes)], device=values.device)
    return values.unflatten(-1, (classes, block)).index_select(-2, index).flatten(-2)


@op("tap.class_labels", gives=like("labels"), no_grad=True, example={"table": (1, 0)})
def class_labels(labels: AnyTensor, table: tuple[int, ...]) -> AnyTensor:
    """Translate class labels.

    Args:
        labels: Integers; those outside 0..len(table)-1 (background, ignored) stay as they are.
        table: Entry i is the new label of class i.

    Returns:
        The same shape and type.
    """
    lookup = torch.tensor(table, device=labels.device, dtype=labels.dtype)
    known = (labels >= 0) & (labels < len(table))
    return torch.where(known, lookup[labels.clamp(0, len(table) - 1).long()], labels)


@op("tap.class_detections", no_grad=True, example={"table": (1, 0)})
def class_detections(detections: Detections, table: tuple[int, ...]) -> Detections:
    """Translate the class labels of detections.

    Args:
        detections: Per image a dict with ``labels`` (n,).
        table: Entry i is the new label of class i.

    Returns:
        The same, with other labels.
    """
    return [{**one, "labels": class_labels(one["labels"], table)} for one in detections]
