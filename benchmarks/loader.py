"""``python -m benchmarks.loader``: images per second of the training loader by number of workers, nothing else running.

The images are drawn once and written as files, so that reading and decoding count. Before anything is timed, the first batches of
every number of workers are compared with those of none: they are equal in every bit.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks import common
from kdflow.data.formats import Split, open_data
from kdflow.data.loader import make_loader
from kdflow.data.shapes import ShapesOptions, write_shapes
from kdflow.data.transforms import Geometry
from kdflow.errors import KdflowError
from kdflow.ports import Batch


def draw(folder: Path, options: argparse.Namespace) -> Split:
    """The training split of a drawn set in COCO's form."""
    counts = {"train": options.images, "val": 1, "test": 1}
    write_shapes(folder, ShapesOptions.model_validate({"pixels": options.pixels, "images": counts}))
    return open_data("coco", {"root": str(folder)}).splits["train"]


def batches(split: Split, options: argparse.Namespace, workers: int) -> Iterator[Batch]:
    """Endless training batches on the device."""
    geometry = Geometry(size=options.size, max_size=2 * options.size, flip=0.5)
    return iter(
        make_loader(
            split, geometry, batch_size=options.batch, train=True, seed=0, workers=workers, size_divisor=32,
            device=options.device,
        )
    )


def equal(one: Batch, other: Batch) -> bool:
    tensors = zip([one.images, *one.boxes, *one.labels], [other.images, *other.boxes, *other.labels], strict=True)
    return one.image_ids == other.image_ids and all(torch.equal(a, b) for a, b in tensors)


def rate(split: Split, options: argparse.Namespace, workers: int) -> list[float]:
    """Images per second, batch by batch, after the first ``warmup`` batches."""
    wait, stream, found = common.waiter(options.device), batches(split, options, workers), []
    for _ in islice(stream, options.warmup):
        pass
    for _ in range(options.repeats):
        start = time.perf_counter()
        images = sum(len(batch.image_ids) for batch in islice(stream, options.batches))
        wait()
        found.append(images / (time.perf_counter() - start))
    return found


def measure(split: Split, options: argparse.Namespace) -> dict[str, Any]:
    """Equality, then rates."""
    expected = list(islice(batches(split, options, 0), 3))
    same = {n: all(map(equal, islice(batches(split, options, n), 3), expected)) for n in options.workers}
    return {
        "size": options.size, "pixels": options.pixels, "batch": options.batch, "machine": common.machine_facts(options.device),
        "identical": all(same.values()),
        "images_per_second": {str(n): common.estimate(rate(split, options, n)).as_json() for n in options.workers},
    }


def as_text(result: dict[str, Any]) -> str:
    """One row per number of workers."""
    places = ("median", "low", "high", "q25", "q75")
    rows = [[n, *(f"{v[p]:.0f}" for p in places)] for n, v in result["images_per_second"].items()]
    return "\n\n".join([
        "images of {pixels} px resized to {size} px, batch {batch}".format(**result), common.facts_line(result["machine"]),
        "batches do not depend on the number of workers" if result["identical"] else "BATCHES DEPEND ON THE NUMBER OF WORKERS",
        common.table(("workers", "images/s", "95 % low", "high", "q25", "q75"), rows),
    ])


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw, measure and print."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=__doc__.partition("\n")[0])
    made.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2, 4])
    made.add_argument("--pixels", type=int, default=640, help="side of the images on disk")
    made.add_argument("--size", type=int, default=512, help="shorter side after resizing")
    made.add_argument("--images", type=int, default=64)
    made.add_argument("--batch", type=int, default=8)
    made.add_argument("--batches", type=int, default=8, help="per repetition")
    made.add_argument("--repeats", type=int, default=10)
    made.add_argument("--warmup", type=int, default=4)
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--json", action="store_true")
    options = made.parse_args(arguments)
    try:
        with TemporaryDirectory() as folder:
            result = measure(draw(Path(folder), options), options)
    except KdflowError as error:
        raise SystemExit(str(error)) from None
    print(json.dumps(result, indent=1) if options.json else as_text(result))


if __name__ == "__main__":
    main()
