"""Preparing prototypes over a data set."""

from __future__ import annotations

import torch

from kdflow.ops.prepare.prototypes import Prototypes

CANVAS = torch.zeros(2, 3, 64, 64)


def maps(seed: int, channels: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, channels, size, size, generator=generator) for size in (8, 4)]


BOXES = [torch.tensor([[0.0, 0, 40, 40], [0, 0, 20, 50]]), torch.tensor([[16.0, 16, 60, 60]])]
LABELS = [torch.tensor([2, 1]), torch.tensor([2])]


def prepared(batches: int = 2, **options: object) -> Prototypes:
    op = Prototypes(**options)  # type: ignore[arg-type]
    op.build(maps(0), maps(1, 5), CANVAS, BOXES, LABELS)
    op.begin()
    for i in range(batches):
        op.observe(maps(2 * i), maps(2 * i + 1, 5), CANVAS, BOXES, LABELS)
    op.finish()
    return op


def test_before_the_first_preparation_there_are_no_rows() -> None:
    op = Prototypes()
    op.build(maps(0), maps(1, 5), CANVAS, BOXES, LABELS)
    assert [t.shape for t in op()["teacher"]] == [(0, 5), (0, 5)]


def test_every_class_with_large_boxes_gets_prototypes_at_every_level() -> None:
    tables = prepared(per_class=3)()
    assert [t.shape for t in tables["student"]] == [(3, 3), (3, 3)]
    assert [t.shape for t in tables["teacher"]] == [(3, 5), (3, 5)]
    assert all((labels == 2).all() for labels in tables["labels"]), "class 1 has only a narrow box"


def test_prototypes_are_vectors_of_real_objects_in_both_models() -> None:
    ours, theirs = maps(0), maps(1, 5)
    tables = prepared(batches=1, per_class=1)()
    candidates = [(ours[0][0, :, :6, :6].mean((1, 2)), theirs[0][0, :, :6, :6].mean((1, 2)))]
    candidates += [(ours[0][1, :, 2:8, 2:8].mean((1, 2)), theirs[0][1, :, 2:8, 2:8].mean((1, 2)))]
    found = (tables["student"][0][0], tables["teacher"][0][0])
    assert any(all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, pair, strict=True)) for pair in candidates)


def test_images_beyond_the_limit_are_not_used() -> None:
    op = Prototypes(images_per_class=2)
    op.build(maps(0), maps(1, 5), CANVAS, BOXES, LABELS)
    for _ in range(3):
        op.observe(maps(0), maps(1, 5), CANVAS, BOXES, LABELS)
    assert sum(len(a) for a, _ in op._found[2, 0]) == 2


def test_saved_tables_load_into_a_fresh_op() -> None:
    done, fresh = prepared(), Prototypes()
    fresh.build(maps(0), maps(1, 5), CANVAS, BOXES, LABELS)
    fresh.load_state_dict(done.state_dict())
    for name, levels in done().items():
        assert all(torch.equal(a, b) for a, b in zip(levels, fresh()[name], strict=True))


def test_a_data_set_without_large_objects_leaves_the_tables_empty() -> None:
    assert [len(t) for t in prepared(min_side=500.0)()["labels"]] == [0, 0]
