"""Two-image COCO and VOC folders with the real label sets, and local stand-ins for published weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torchvision
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from kdflow.ports import DETECTORS
from tests.data.conftest import save_image

CATEGORY_IDS: tuple[str, ...] = tuple(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
"""Names by category id, 0 to 90; ids without a class read ``N/A``."""
COCO_CLASSES = tuple(name for name in CATEGORY_IDS if name not in ("__background__", "N/A"))
OLDER = {
    "motorcycle": "motorbike",
    "airplane": "aeroplane",
    "couch": "sofa",
    "potted plant": "pottedplant",
    "dining table": "diningtable",
    "tv": "tvmonitor",
}
SIZES = {"1.jpg": (96, 128), "2.jpg": (80, 64)}
BOXES = {
    "1.jpg": [("person", 5, 10, 60, 70), ("potted plant", 50, 20, 120, 90)],
    "2.jpg": [("toothbrush", 8, 8, 40, 60)],
}


def write_coco(root: Path) -> Path:
    """``annotations/instances_{train,val}2017.json`` beside ``train2017/`` and ``val2017/``."""
    categories = [{"id": i, "name": name} for i, name in enumerate(CATEGORY_IDS) if name in COCO_CLASSES]
    images = [{"id": i + 1, "file_name": n, "height": h, "width": w} for i, (n, (h, w)) in enumerate(SIZES.items())]
    annotations = [
        {
            "image_id": image["id"],
            "category_id": CATEGORY_IDS.index(name),
            "bbox": [x, y, x2 - x, y2 - y],
            "area": (x2 - x) * (y2 - y),
            "iscrowd": 0,
        }
        for image in images
        for name, x, y, x2, y2 in BOXES[str(image["file_name"])]
    ]
    rows = [{"id": i, **row} for i, row in enumerate(annotations, start=1)]
    (root / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        for name, size in SIZES.items():
            save_image(root / split / name, *size)
        document = {"images": images, "annotations": rows, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return root


def write_voc(root: Path) -> Path:
    """``VOC2007`` and ``VOC2012`` as the devkit lays them out."""
    for year, image_sets in (("VOC2007", ("trainval", "test")), ("VOC2012", ("trainval",))):
        folder = root / year
        for part in ("Annotations", "ImageSets/Main"):
            (folder / part).mkdir(parents=True)
        for (name, (height, width)), boxes in zip(SIZES.items(), BOXES.values()):
            save_image(folder / "JPEGImages" / name, height, width)
            objects = "".join(
                f"<object><name>{OLDER.get(label, 'person')}</name><difficult>0</difficult><bndbox><xmin>{x}</xmin>"
                f"<ymin>{y}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
                for label, x, y, x2, y2 in boxes
            )
            size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
            text = f"<annotation><filename>{name}</filename>{size}{objects}</annotation>"
            (folder / "Annotations" / f"{Path(name).stem}.xml").write_text(text)
        for image_set in image_sets:
            (folder / "ImageSets" / "Main" / f"{image_set}.txt").write_text("1\n2\n")
    return root


def save_pretrained(detector: str, folder: Path, seed: int) -> str:
    """A folder as the hub offers it: a tiny model with the published label set of this detector."""
    names = ["N/A" if n == "__background__" else n for n in CATEGORY_IDS]
    if detector in ("rt-detr", "deimv2"):
        names = [OLDER.get(name, name) for name in COCO_CLASSES]
    torch.manual_seed(seed)
    family = DETECTORS.get(detector)
    built: Any = family.build([f"{i}" for i in range(len(names))], **family.tiny)
    built.model.config.id2label = dict(enumerate(names))
    built.model.save_pretrained(folder)
    return str(folder)


def save_backbone(name: str, file: Path) -> str:
    """A state-dict file of an untrained backbone."""
    if name.startswith("timm:"):
        import timm

        torch.save(timm.create_model(name.removeprefix("timm:")).state_dict(), file)
    else:
        torch.save(torchvision.models.get_model(name).state_dict(), file)
    return str(file)


def published(maker: str) -> dict[str, torch.Tensor]:
    """What torchvision's weight name would give, with random numbers: the full model of the 91 category ids."""
    torch.manual_seed(0)
    model = getattr(torchvision.models.detection, maker)(weights=None, weights_backbone=None, num_classes=91)
    return dict(model.state_dict())
