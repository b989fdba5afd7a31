from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdflow.data.formats import Split, open_data
from kdflow.data.loader import BatchLoader, RawBatch, make_loader
from kdflow.data.transforms import Geometry
from kdflow.errors import DataError
from kdflow.ports import Batch

GEOMETRY = Geometry(size=24, max_size=40)


@pytest.fixture
def split(write_coco: Callable[..., Path]) -> Split:
    """Seven images of different sizes; image 7 has no boxes."""
    images = [(i, f"{i}.png", 16 + 3 * i, 40 - 2 * i) for i in range(1, 8)]
    boxes = [{"image_id": i, "category_id": 7, "bbox": [2, 1, 3 + i, 6], "iscrowd": 0} for i in range(1, 7)]
    write_coco("val", images[:1], boxes[:1])
    return open_data("coco", {"root": str(write_coco("train", images, boxes))}).splits["train"]


def loader(split: Split, train: bool = True, **changes: Any) -> BatchLoader:
    options = {"batch_size": 2, "seed": 3, "workers": 0, "size_divisor": 16, "geometry": GEOMETRY, **changes}
    return make_loader(split, options.pop("geometry"), train=train, **options)


def take(batches: BatchLoader, count: int) -> list[Batch]:
    return list(itertools.islice(batches, count))


def same(one: Batch, other: Batch) -> bool:
    tensors = zip([one.images, *one.boxes, *one.labels], [other.images, *other.boxes, *other.labels])
    plain = (one.image_ids, one.image_sizes, one.original_sizes) == (
        other.image_ids,
        other.image_sizes,
        other.original_sizes,
    )
    return plain and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in tensors)


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_processes(split: Split, workers: int):
    alone, helped = take(loader(split), 9), take(loader(split, workers=workers), 9)
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_restart_at_a_step_continues_exactly(split: Split, workers: int):
    whole = take(loader(split), 12)
    for start in (1, 4, 7):
        resumed = take(loader(split, start_step=start, workers=workers), 4)
        assert all(same(a, b) for a, b in zip(whole[start:], resumed))


def test_another_seed_gives_another_order(split: Split):
    orders = {tuple(i for batch in take(loader(split, seed=seed), 4) for i in batch.image_ids) for seed in range(5)}
    assert len(orders) == 5


def test_every_epoch_holds_each_image_once(split: Split):
    ids = [i for batch in take(loader(split), 14) for i in batch.image_ids]
    epochs = [ids[k : k + 7] for k in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(1, 8)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert loader(split).steps_per_epoch == 4
    assert loader(split, batch_size=7).steps_per_epoch == 1


def test_ranks_share_the_batch_of_one_rank_twice_as_large(split: Split):
    large = take(loader(split, batch_size=4), 5)
    ranks = [take(loader(split, rank=rank, world_size=2), 5) for rank in (0, 1)]
    for whole, first, second in zip(large, *ranks):
        assert whole.image_ids == first.image_ids + second.image_ids
        assert all(torch.equal(a, b) for a, b in zip(whole.boxes, first.boxes + second.boxes))
    assert loader(split, rank=1, world_size=2).steps_per_epoch == 2


def test_flips_belong_to_seed_epoch_and_image(split: Split):
    def flips(**changes: Any) -> dict[tuple[int, int], list[float]]:
        per_step = changes.get("batch_size", 2)
        batches = take(loader(split, **changes), 28 // per_step)
        rows = [(i, boxes) for batch in batches for i, boxes in zip(batch.image_ids, batch.boxes)]
        return {(k // 7, i): boxes.flatten().tolist() for k, (i, boxes) in enumerate(rows)}

    assert flips() == flips(batch_size=4)
    seen = {image: {tuple(boxes) for (_, i), boxes in flips().items() if i == image} for image in range(1, 7)}
    assert any(len(variants) == 2 for variants in seen.values())
    never, always = flips(geometry=Geometry(24, 40, flip=0)), flips(geometry=Geometry(24, 40, flip=1))
    assert all(never[key] != always[key] for key in never if key[1] != 7)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_sees_each_image_once_over_all_ranks_and_unflipped(split: Split, world: int):
    geometry = Geometry(24, 40, flip=1)
    batches = [list(loader(split, train=False, geometry=geometry, rank=r, world_size=world)) for r in range(world)]
    ids = Counter(i for rank in batches for batch in rank for i in batch.image_ids)
    assert ids == Counter(range(1, 8))
    assert [len(rank) for rank in batches] == [
        len(loader(split, train=False, rank=r, world_size=world)) for r in range(world)
    ]
    plain = take(loader(split, train=False, geometry=GEOMETRY), 1)[0]
    assert plain.image_ids == [1, 2]
    assert plain.boxes[0][0, 0] == pytest.approx(2 * plain.image_sizes[0][1] / 38)


def test_more_ranks_than_images_leave_some_without_work(split: Split):
    assert list(loader(split, train=False, rank=8, world_size=9)) == []


def test_canvas_is_a_multiple_of_the_divisor_and_zero_outside_the_images(split: Split):
    for batch in take(loader(split), 7):
        height, width = batch.images.shape[-2:]
        assert (height % 16, width % 16) == (0, 0)
        assert height - max(h for h, _ in batch.image_sizes) < 16
        assert batch.images.dtype == torch.float32
        assert 0.5 < batch.images.max() <= 1
        for image, (h, w) in zip(batch.images, batch.image_sizes):
            assert image[:, :h, :w].min() > 0  # the files have no black pixels
            assert image[:, h:].abs().sum() + image[:, :, w:].abs().sum() == 0


def test_sizes_and_boxes_follow_the_geometry(split: Split):
    fixed = take(loader(split, geometry=Geometry(32, 40, fixed=True)), 1)[0]
    assert fixed.image_sizes == [(32, 32), (32, 32)]
    for batch in take(loader(split), 4):
        for boxes, labels, (h, w) in zip(batch.boxes, batch.labels, batch.image_sizes):
            assert min(h, w) == 24 or max(h, w) == 40
            assert (boxes.dtype, labels.dtype, len(boxes)) == (torch.float32, torch.int64, len(labels))
            assert (boxes >= 0).all()
            assert (boxes[:, 2:] <= torch.tensor([w, h])).all()


def test_an_image_without_boxes_is_loaded(split: Split):
    batch = next(b for b in take(loader(split, batch_size=1), 7) if b.image_ids == [7])
    assert (batch.boxes[0].shape, batch.labels[0].shape) == ((0, 4), (0,))


def test_resident_images_are_the_same_and_read_once(split: Split, monkeypatch: pytest.MonkeyPatch):
    resident = loader(split, geometry=Geometry(24, 40, resident=True), workers=2)
    assert all(same(a, b) for a, b in zip(take(loader(split), 9), take(resident, 9), strict=True))
    monkeypatch.setattr("PIL.Image.open", lambda *_: pytest.fail("read again"))
    assert all(same(a, b) for a, b in zip(take(resident, 9), take(resident, 9), strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_a_data_error_with_its_name(split: Split, workers: int):
    Path(split.annotations.files[3]).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"image file cannot be opened: 4.png") as caught:
        list(loader(split, train=False, workers=workers))
    assert "Traceback" not in str(caught.value)


def test_an_image_of_another_size_than_annotated_is_a_data_error(split: Split):
    path = split.annotations.files
    Path(path[0]).write_bytes(Path(path[1]).read_bytes())
    with pytest.raises(DataError, match=r"1.png is 36x22, annotated 38x19"):
        list(loader(split, train=False))


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_generators_are_left_alone(split: Split, workers: int):
    before = torch.random.get_rng_state()
    take(loader(split, workers=workers), 3)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_training_loader_has_no_length(split: Split):
    with pytest.raises(TypeError):
        len(loader(split))


def test_every_byte_becomes_the_float_that_division_gives() -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    rest = {"image_sizes": [(16, 16)], "image_ids": [0], "original_sizes": [(16, 16)]}
    batch = RawBatch(images, torch.zeros(0, 4), torch.zeros(0), [0], rest).to(torch.device("cpu"))
    assert batch.images[0, 0].flatten().tolist() == [float(np.float32(value) / np.float32(255)) for value in range(256)]
