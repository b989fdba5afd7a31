"""Families leave kdflow in the forms that they can have, and are refused the others in words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from kdflow.errors import UsageError
from kdflow.ports import DETECTORS, Detector
from kdflow.student.pictures import Pictures
from kdflow.using.export.agree import compare
from kdflow.using.export.onnx_file import onnx_finder, write_onnx
from kdflow.using.export.pretrained import pretrained_finder, write_pretrained
from kdflow.using.finder import finder_of
from tests.contracts.tiny_detectors import NAMES, detector_of

SETS = ("conditional-detr", "deformable-detr", "detr", "rt-detr")


def pictures() -> list[Tensor]:
    """Two pictures with smooth edges."""
    draw = torch.Generator().manual_seed(0)
    small = [torch.randint(0, 256, (1, 3, 8, 12), generator=draw).float() for _ in range(2)]
    sizes = ((75, 148), (200, 200))
    return [torch.nn.functional.interpolate(one, size=size).to(torch.uint8)[0] for one, size in zip(small, sizes)]


def square(detector: Detector) -> Pictures:
    return Pictures(96, 96, True, detector.size_divisor)


@pytest.mark.parametrize("name", SETS)
def test_a_detr_read_back_by_its_library_finds_the_same(name: str, tmp_path: Path) -> None:
    detector = detector_of(name)
    detector.model.eval()
    write_pretrained(tmp_path, detector, square(detector))
    assert (tmp_path / "preprocessor_config.json").is_file() or (tmp_path / "processor_config.json").is_file()
    other = pretrained_finder(tmp_path, detector)
    assert other.classes == detector.classes
    done = compare(finder_of(detector, square(detector)), other, pictures())
    assert done.holds, done.words


@pytest.mark.slow
def test_a_detr_in_onnx_finds_the_same(tmp_path: Path) -> None:
    detector = detector_of("rt-detr")
    detector.model.eval()
    written = write_onnx(tmp_path / "model.onnx", detector, square(detector), 0.0)
    done = compare(finder_of(detector, square(detector)), onnx_finder(written.file, False), pictures())
    assert done.holds, done.words


@pytest.mark.parametrize("name", [name for name in NAMES if DETECTORS.get(name).library == "torchvision"])
def test_models_of_other_libraries_have_no_pretrained_form(name: str, tmp_path: Path) -> None:
    detector = detector_of(name)
    with pytest.raises(UsageError, match="which from_pretrained does not know"):
        write_pretrained(tmp_path, detector, square(detector))


def test_two_stages_have_no_onnx_form(tmp_path: Path) -> None:
    detector = detector_of("faster-rcnn")
    with pytest.raises(UsageError, match="second stage looks at regions whose number depends"):
        write_onnx(tmp_path / "model.onnx", detector, square(detector), 0.0)


def test_a_bench_that_keeps_the_aspect_ratio_needs_the_size_of_the_pictures(tmp_path: Path) -> None:
    detector = detector_of("retinanet")
    with pytest.raises(UsageError, match="--picture HEIGHTxWIDTH"):
        write_onnx(tmp_path / "model.onnx", detector, Pictures(96, 120, False, 32), 0.0)
