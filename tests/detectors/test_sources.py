"""What an exported student is: the library's model, built by a few lines that know nothing of kdflow."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.detectors import test_dense as dense
from tests.detectors import test_faster_rcnn as rcnn
from tests.detectors import test_gfl as gfl
from tests.detectors.library import make_batch
from tests.detectors.source_check import run_sources


def test_sources_build_the_same_models_without_kdflow(tmp_path: Path) -> None:
    detectors = {
        "rcnn": rcnn.tiny(norm="frozen", trainable_layers=2, min_size=96),
        "rcnn_timm": rcnn.tiny(backbone="timm:mobilenetv3_small_050", norm="frozen", min_size=96),
        **{name: dense.tiny(name, min_size=96) for name in ("retinanet", "fcos")},
        "retinanet_v2": dense.tiny("retinanet", neck=64, head_norm="group", box_loss="giou", p6_from="c5", min_size=96),
        "ssd": dense.tiny("ssd"),
        **{name: gfl.tiny(name, min_size=96) for name in gfl.NAMES},
    }
    image = make_batch(sizes=((96, 96), (96, 96))).images[0]
    found = run_sources(detectors, tmp_path, image)
    for name, detector in detectors.items():
        expected = detector.predict(image[None], [(96, 96)])[0]
        assert len(found[name]["boxes"]) > 0, name
        assert torch.equal(found[name]["labels"], expected["labels"] + detector.source().detect["first_label"]), name
        assert torch.allclose(found[name]["boxes"], expected["boxes"], rtol=1e-5, atol=1e-3), name
