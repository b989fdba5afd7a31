"""Pascal VOC folders: an XML file per image, and lists of image names per split."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from xml.etree import ElementTree

from PIL import Image
from pydantic import BeforeValidator, Field

from kdflow.data.annotations import Annotations, AnnotationsBuilder, Trouble
from kdflow.data.coco import expand
from kdflow.data.dataset import DECODING_ERRORS
from kdflow.data.formats import DATASETS, SPLITS, DataFormat, FolderOptions
from kdflow.errors import DataError

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
CLASS_FILE = "classes.txt"
"""Optional file in the root: class names, one per line. VOC folders name their classes nowhere else."""

ImageSets = Annotated[
    tuple[str, ...],
    BeforeValidator(
        lambda value: (value,) if isinstance(value, str) else value, json_schema_input_type=str | tuple[str, ...]
    ),
    Field(description="image sets by folder and name: VOC2007/trainval; without a folder, those of root itself"),
]


class VocOptions(FolderOptions):
    """Keys of ``format: voc``, for example ``root: ~/VOCdevkit``, ``train: [VOC2007/trainval, VOC2012/trainval]``."""

    root: str = Field(description="folder that the image sets are relative to; ~ and $VARIABLES are expanded")
    train: ImageSets = ()
    val: ImageSets = ()
    test: ImageSets = ()
    classes: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description=f"label order; none: {CLASS_FILE} in root if it exists, else VOC's twenty",
    )
    one_based: bool = Field(default=True, description="corners count pixels from 1 and are inclusive, as in VOC itself")


def class_names(options: VocOptions) -> tuple[str, ...]:
    """Class names in label order."""
    if options.classes is not None:
        return options.classes
    listed = expand(options.root) / CLASS_FILE
    if not listed.is_file():
        return VOC_CLASSES
    return tuple(line.strip() for line in listed.read_text(encoding="utf-8").splitlines() if line.strip())


def split_names(options: VocOptions) -> tuple[str, ...]:
    """Splits for which image sets are given; raises DataError when there is none or a list file is missing."""
    given = tuple(split for split in SPLITS if getattr(options, split))
    if not given:
        raise DataError("data.train: name the image sets of train and val, for example train: [VOC2007/trainval]")
    for split in given:
        for entry in getattr(options, split):
            if not set_file(options, entry).is_file():
                raise DataError(f"data.{split}: no image set {entry}: there is no file {set_file(options, entry)}")
    return given


def set_file(options: VocOptions, entry: str) -> Path:
    """The list file of an image set such as ``VOC2007/trainval``."""
    path = expand(options.root) / entry
    return path.parent / "ImageSets" / "Main" / f"{path.name}.txt"


def read_split(options: VocOptions, split: str) -> Annotations:
    """Annotations of one split. Image ids count from 1 in the order of the lists."""
    split_names(options)
    root = expand(options.root)
    entries: tuple[str, ...] = getattr(options, split)
    builder = AnnotationsBuilder(f"{root} ({', '.join(entries)})", class_names(options))
    labels = {name: label for label, name in enumerate(builder.classes)}
    for entry in entries:
        folder = (root / entry).parent
        for line in set_file(options, entry).read_text(encoding="utf-8").splitlines():
            if line.split():
                _read_image(builder, folder, line.split()[0], labels, options.one_based)
    return options.treat(builder.build())


def _read_image(builder: AnnotationsBuilder, folder: Path, stem: str, labels: dict[str, int], one_based: bool) -> None:
    xml = folder / "Annotations" / f"{stem}.xml"
    tree = parse_xml(xml)
    if isinstance(tree, str):
        builder.problem(Trouble.UNREADABLE, f"{xml.name} ({tree})")
        return
    file = image_file(folder, stem, tree)
    owner = builder.image(file, str(file.relative_to(folder.parent)), len(builder.files) + 1, _size(tree, file))
    for item in tree.iterfind("object"):
        name = (item.findtext("name") or "").strip()
        if name in labels:
            builder.box(owner, _box(item, one_based), labels[name], (item.findtext("difficult") or "0").strip() == "1")
        else:
            builder.problem(Trouble.UNKNOWN_CLASS, f'"{name}" in {xml.name}')


def parse_xml(path: Path) -> ElementTree.Element | str:
    """The root of an XML file, or why it cannot be read."""
    try:
        return ElementTree.parse(path).getroot()
    except OSError as error:
        return error.strerror or str(error)
    except (ElementTree.ParseError, UnicodeError) as error:
        return f"not XML: {error}"


def image_file(folder: Path, stem: str, tree: ElementTree.Element) -> Path:
    """The image of an annotation: ``JPEGImages/<stem>.jpg``, or the file that the annotation names."""
    usual = folder / "JPEGImages" / f"{stem}.jpg"
    named = Path((tree.findtext("filename") or "").strip()).name
    return folder / "JPEGImages" / named if named and not usual.is_file() else usual


def _size(tree: ElementTree.Element, file: Path) -> tuple[int, int]:
    """(height, width) as annotated, else as in the image's header, else zeros."""
    height, width = (_number(tree.findtext(f"size/{side}")) for side in ("height", "width"))
    if height > 0 and width > 0:
        return int(height), int(width)
    try:
        with Image.open(file) as image:
            return image.height, image.width
    except DECODING_ERRORS:
        return 0, 0


def _box(item: ElementTree.Element, one_based: bool) -> tuple[float, float, float, float]:
    """Left, top, width, height; inclusive corners from 1 become edges from 0."""
    left, top, right, bottom = (_number(item.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax"))
    shift = 1.0 if one_based else 0.0
    return left - shift, top - shift, right - left + shift, bottom - top + shift


def _number(text: str | None) -> float:
    try:
        return float(text) if text is not None else math.nan
    except ValueError:
        return math.nan


def find_sets(root: Path) -> dict[str, tuple[str, ...]]:
    """Image sets by split, of a VOC folder or of all year folders in a devkit; ``trainval`` stands in for ``train``."""
    years = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    lists = [(path, path / "ImageSets" / "Main") for path in years]
    found: dict[str, tuple[str, ...]] = {}
    for split, names in {"train": ("train", "trainval"), "val": ("val",), "test": ("test",)}.items():
        entries = [next((folder / n for n in names if (sets / f"{n}.txt").is_file()), None) for folder, sets in lists]
        relative = tuple(str(entry.relative_to(root)) for entry in entries if entry is not None)
        if relative:
            found[split] = relative
    return found


def find_classes(root: Path) -> tuple[str, ...]:
    """Class names that the annotations below ``root`` use, in alphabetical order."""
    return tuple(sorted({name for path in root.glob("**/Annotations/*.xml") for name in _names_in(path)}))


def _names_in(path: Path) -> Iterator[str]:
    tree: Any = parse_xml(path)
    if not isinstance(tree, str):
        yield from (name.strip() for item in tree.iterfind("object") if (name := item.findtext("name")))


DATASETS.add(
    "voc",
    DataFormat(
        options=VocOptions,
        classes=class_names,
        splits=split_names,
        read=read_split,
        doc="Pascal VOC folders: Annotations/*.xml, JPEGImages/, ImageSets/Main/*.txt",
    ),
)
