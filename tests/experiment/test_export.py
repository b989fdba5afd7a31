"""An exported student treats a picture as the evaluation did, and nothing that a user wrote becomes code in it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from kdflow.data.annotations import Pixels
from kdflow.data.images import read_pixels
from kdflow.data.loader import Collate
from kdflow.data.transforms import Geometry, Sample, as_boxes, resize
from kdflow.engine.evaluate import to_disk
from kdflow.experiment.export import export_student
from kdflow.ports import DETECTORS, Batch, Detector
from kdflow.student.pictures import read
from tests.contracts.tiny_detectors import NAMES, detector_of

SCRIPT = """
import importlib, sys, torch
for name in sys.argv[1:]:
    student = importlib.import_module(f"{name}.student")
    torch.save([student.predict("picture.png", threshold=-1.0), student.predict("square.png", threshold=-1.0)], f"{name}.pt")
assert not any(name.split(".")[0] == "kdflow" for name in sys.modules), "kdflow was imported"
"""
GEOMETRY = Geometry(size=96, max_size=120)


def as_evaluated(detector: Detector, file: Path, geometry: Geometry) -> dict[str, torch.Tensor]:
    """What an evaluation finds in a picture on disk, in its pixels."""
    from torchvision.transforms.v2 import functional as transforms

    image = transforms.pil_to_tensor(Image.open(file).convert("RGB"))
    original = (int(image.shape[-2]), int(image.shape[-1]))
    sample = Sample(transforms.to_image(image), as_boxes(torch.zeros(0, 4), original), torch.zeros(0).long(), 0, original)
    raw = Collate(detector.size_divisor)([resize(sample, geometry.target(*original))])
    batch: Batch = raw.to(torch.device("cpu"))
    (found,) = detector.predict(batch.images, batch.image_sizes)
    return {**found, "boxes": to_disk(found["boxes"], batch.image_sizes[0], original)}


def geometry_of(name: str) -> Geometry:
    """Families whose images fill the canvas are evaluated on squares."""
    return GEOMETRY if DETECTORS.get(name).ragged else Geometry(size=96, max_size=96, fixed=True)


def with_detections(name: str) -> Detector:
    """A tiny detector whose random weights find something."""
    detector = detector_of(name)
    detector.model.eval()
    for attribute in ("score_thresh",):
        for module in (detector.model, getattr(detector.model, "roi_heads", None)):
            if hasattr(module, attribute):
                setattr(module, attribute, 0.0)
    return detector


def test_every_exported_student_finds_what_the_evaluation_found(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    for file, size in (("picture.png", (75, 148, 3)), ("square.png", (200, 200, 3))):
        pixels = torch.randint(0, 255, (8, 12, 3), generator=draw, dtype=torch.uint8).numpy()
        Image.fromarray(pixels).resize((size[1], size[0])).save(tmp_path / file)
    expected: dict[str, list[Mapping[str, torch.Tensor]]] = {}
    for name in NAMES:
        detector, geometry = with_detections(name), geometry_of(name)
        export_student(detector, tmp_path / name.replace("-", "_"), geometry.pictures(detector.size_divisor))
        expected[name] = [as_evaluated(detector, tmp_path / f, geometry) for f in ("picture.png", "square.png")]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *(name.replace("-", "_") for name in expected)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    seen = 0
    for name, pictures in expected.items():
        found = torch.load(tmp_path / f"{name.replace('-', '_')}.pt", weights_only=True)
        for own, wanted in zip(found, pictures, strict=True):
            assert torch.equal(own["labels"], wanted["labels"]), name
            torch.testing.assert_close(own["scores"], wanted["scores"], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(own["boxes"].double(), wanted["boxes"], rtol=1e-4, atol=1e-2)
            seen += len(own["labels"])
    assert seen > 10 * len(expected)


HOSTILE = ("'''\nimport os\nos.abort()\n'''", '"""; raise SystemExit(3) #', "it's \"so\"\\", "{braces} %s", "line\nbreak\u2028")


@pytest.mark.parametrize("name", NAMES)
def test_class_names_are_data_and_never_code(name: str, tmp_path: Path) -> None:
    family = DETECTORS.get(name)
    detector = family.build(HOSTILE, **family.tiny)
    export_student(detector, tmp_path, GEOMETRY.pictures(32))
    space: dict[str, Any] = {"__name__": "student", "__file__": str(tmp_path / "student.py")}
    exec((tmp_path / "student.py").read_text(encoding="utf-8"), space)
    assert space["CLASSES"] == HOSTILE
    space["load"]()


def test_a_turned_picture_is_read_as_the_bench_reads_it(tmp_path: Path) -> None:
    pixels = torch.arange(2 * 4 * 3, dtype=torch.uint8).view(2, 4, 3).numpy()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    stored = read(tmp_path / "turned.png")
    shown = read(tmp_path / "turned.png", upright=True)
    assert stored.shape == (3, 2, 4)
    assert torch.equal(shown, stored.rot90(-1, (1, 2)))
    for own, said in ((stored, "ignore"), (shown, "apply")):
        expected = read_pixels(tmp_path / "turned.png", Pixels(said, 10_000))
        assert torch.equal(own, read(expected))


def test_the_upper_eight_of_sixteen_bits_count(tmp_path: Path) -> None:
    deep = torch.tensor([[256, 65535], [4096, 255]], dtype=torch.int32).numpy().astype("uint16")
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert read(tmp_path / "deep.png")[0].tolist() == [[1, 255], [16, 0]]
    assert torch.equal(read(tmp_path / "deep.png"), read(read_pixels(tmp_path / "deep.png", Pixels("ignore", 10_000))))
