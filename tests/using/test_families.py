"""Every registered detector leaves kdflow in the forms that docs/using.md lists, and is refused the others in words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdflow.errors import UsageError
from kdflow.ports import DETECTORS, Detector
from kdflow.student.pictures import Pictures
from kdflow.using.export.agree import compare
from kdflow.using.export.onnx_file import Whole, onnx_finder, write_onnx
from kdflow.using.export.pretrained import pretrained_finder, write_pretrained
from kdflow.using.finder import Finder, finder_of
from tests.contracts.tiny_detectors import NAMES, detector_of
from tests.paths import ROOT

SETS = [name for name in NAMES if DETECTORS.get(name).library == "transformers"]
OTHERS = [name for name in NAMES if name not in SETS]
ROW = re.compile(r"\| `([\w-]+)` \| ([^|]+) \| ([^|]+) \|")
TABLE = {name: (onnx, hf) for name, onnx, hf in ROW.findall((ROOT / "docs" / "using.md").read_text(encoding="utf-8"))}
"""Detector -> its ONNX form and its pretrained form, in words."""


def pictures() -> list[Tensor]:
    """Two pictures with smooth edges."""
    draw = torch.Generator().manual_seed(0)
    small = [torch.randint(0, 256, (1, 3, 8, 12), generator=draw).float() for _ in range(2)]
    sizes = ((75, 148), (200, 200))
    return [torch.nn.functional.interpolate(one, size=size).to(torch.uint8)[0] for one, size in zip(small, sizes)]


def ready(name: str) -> Detector:
    """In evaluation mode; a fresh head that all levels share scores all places alike, so its scores are drawn apart."""
    detector: Detector = detector_of(name)
    if detector.family == "dense" and len(detector.class_rows) == 1:
        weight: Any = detector.model.get_submodule(*detector.class_rows).weight
        weight.data *= 8
    detector.model.eval()
    return detector


def square(detector: Detector) -> Pictures:
    return Pictures(96, 96, True, detector.size_divisor)


def same(detector: Detector, other: Finder) -> None:
    done = compare(finder_of(detector, square(detector)), other, pictures())
    assert done.holds, done.words


def test_the_table_lists_every_detector() -> None:
    assert sorted(TABLE) == DETECTORS.names()
    for name in DETECTORS.names():
        assert (TABLE[name][1] == "yes") == (name in SETS), name
        assert (TABLE[name][0] in ("any number", "one")) == (name in NAMES), name


@pytest.mark.parametrize("name", NAMES)
def test_what_an_onnx_file_is_made_of_finds_the_same(name: str) -> None:
    detector = ready(name)
    whole = Whole(detector, square(detector), 0.0, None).eval()

    @torch.no_grad()
    def look(image: Tensor) -> dict[str, Tensor]:
        return dict(zip(("boxes", "scores", "labels"), whole(image[None])))

    same(detector, Finder(detector.classes, False, look))
    with torch.no_grad():
        both = whole(torch.stack([pictures()[1], pictures()[1].flip(-1)]))
    assert set(both[3].tolist()) == {0, 1}, "pictures are told apart"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_onnx_file_finds_the_same(name: str, tmp_path: Path) -> None:
    detector = ready(name)
    written = write_onnx(tmp_path / "model.onnx", detector, square(detector), 0.0)
    other = onnx_finder(written.file)
    assert other.classes == detector.classes
    assert written.batch == {"any number": "any", "one": "1"}[TABLE[name][0]]
    same(detector, other)


@pytest.mark.parametrize("name", SETS)
def test_a_detr_read_back_by_its_library_finds_the_same(name: str, tmp_path: Path) -> None:
    detector = ready(name)
    write_pretrained(tmp_path, detector, square(detector))
    assert (tmp_path / "preprocessor_config.json").is_file() or (tmp_path / "processor_config.json").is_file()
    other = pretrained_finder(tmp_path)
    assert other.classes == detector.classes
    same(detector, other)


@pytest.mark.parametrize("name", OTHERS)
def test_models_of_other_libraries_have_no_pretrained_form(name: str, tmp_path: Path) -> None:
    detector = detector_of(name)
    with pytest.raises(UsageError, match="which from_pretrained does not know"):
        write_pretrained(tmp_path, detector, square(detector))


def test_a_bench_that_keeps_the_aspect_ratio_needs_the_size_of_the_pictures(tmp_path: Path) -> None:
    detector = detector_of("retinanet")
    with pytest.raises(UsageError, match="--picture HEIGHTxWIDTH"):
        write_onnx(tmp_path / "model.onnx", detector, Pictures(96, 120, False, 32), 0.0)
