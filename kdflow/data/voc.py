"""Pascal VOC folders: an XML file per image, and lists of image names per split."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from xml.etree.ElementTree import Element

from pydantic import BeforeValidator, Field, field_validator

from kdflow.data.annotations import Annotations, AnnotationsBuilder, Trouble
from kdflow.data.files import UnreadableFileError, climbs, expand, read_lines
from kdflow.data.formats import DATASETS, SPLITS, DataFormat, FolderOptions, pixels_of
from kdflow.data.images import SUFFIXES
from kdflow.data.values import class_name, file_name, shown
from kdflow.data.voc_writing import CLASS_FILE, write
from kdflow.data.voc_xml import annotated_size, read_object, read_tree
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
EVERY = "*"
"""The image set of all annotations in a folder."""
_MARK = re.compile(r"\s+(-1|0|1)$")

ImageSets = Annotated[
    tuple[str, ...],
    BeforeValidator(
        lambda value: (value,) if isinstance(value, str) else value, json_schema_input_type=str | tuple[str, ...]
    ),
    Field(
        description="image sets by folder and name: VOC2007/trainval; without a folder, those of root itself; * stands for all "
        "annotations of a folder"
    ),
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

    @field_validator("classes")
    @classmethod
    def _once(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in classes or ():
            if class_name(name) is None or (classes or ()).count(name) > 1:
                raise ValueError(f"{shown(name)} is blank, or listed twice")
        return classes


def class_names(options: VocOptions) -> tuple[str, ...]:
    """Class names in label order; raises DataError for a class file that lists none, or one twice."""
    if options.classes is not None:
        return options.classes
    listed = expand(options.root) / CLASS_FILE
    return read_classes(listed) if listed.is_file() else VOC_CLASSES


def read_classes(file: Path) -> tuple[str, ...]:
    """Class names of a file with one per line; blank lines are passed over."""
    names = [line.strip() for line in read_lines(file)]
    lines: dict[str, int] = {}
    for line, name in enumerate(names, start=1):
        if name and lines.setdefault(name, line) != line:
            raise UnreadableFileError(
                file, f"{shown(name)} stands in line {lines[name]} and in line {line}. Next: list every class once"
            )
    if not lines:
        raise UnreadableFileError(file, "it lists no class. Next: write one class per line, or remove the file")
    return tuple(lines)


def split_names(options: VocOptions) -> tuple[str, ...]:
    """Splits for which image sets are given; raises DataError when there is none or a list file is missing."""
    given = tuple(split for split in SPLITS if getattr(options, split))
    if not given:
        raise DataError("data.train: name the image sets of train and val, for example train: [VOC2007/trainval]")
    for split in given:
        for entry in getattr(options, split):
            if not _is_every(entry) and not set_file(options, entry).is_file():
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
    homes = [root, *((root / entry).parent / "JPEGImages" for entry in entries)]
    folders = tuple(dict.fromkeys(map(str, homes)))
    builder = AnnotationsBuilder(f"{root} ({', '.join(entries)})", class_names(options), folders=folders)
    for entry in entries:
        folder = VocFolder.of((root / entry).parent)
        for line in folder.stems if _is_every(entry) else read_lines(set_file(options, entry)):
            if line.strip():
                _read_image(builder, folder, _stem(folder, line), options)
    return options.treat(builder.build())


def _is_every(entry: str) -> bool:
    """True for an entry that stands for all annotations of its folder, listed or not."""
    return entry.rpartition("/")[2] == EVERY


@dataclass(frozen=True)
class VocFolder:
    """A folder with ``Annotations/`` and ``JPEGImages/``, each listed once.

    Attributes:
        path: The folder.
        annotations: Names in ``Annotations/``.
        images: Names in ``JPEGImages/``.
        by_stem: Image files by their name without ending.
    """

    path: Path
    annotations: frozenset[str]
    images: frozenset[str]
    by_stem: Mapping[str, tuple[str, ...]]

    @property
    def stems(self) -> list[str]:
        """Names of all annotations without their ending, sorted."""
        return sorted(Path(name).stem for name in self.annotations if name.endswith(".xml"))

    @classmethod
    def of(cls, path: Path) -> VocFolder:
        """List a folder; what does not exist is empty."""
        images = sorted(_listing(path / "JPEGImages"))
        by_stem: dict[str, tuple[str, ...]] = {}
        for name in images:
            if Path(name).suffix.lower() in SUFFIXES:
                by_stem[Path(name).stem] = (*by_stem.get(Path(name).stem, ()), name)
        return cls(path, frozenset(_listing(path / "Annotations")), frozenset(images), by_stem)


def _listing(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _stem(folder: VocFolder, line: str) -> str:
    """The image that a line of an image set names. Names may hold spaces; VOC's lists of one class have a mark behind."""
    candidates = [line, line.strip(), _MARK.sub("", line.strip())]
    known = [name for name in candidates if f"{name}.xml" in folder.annotations]
    return known[0] if known else candidates[-1]


def _read_image(builder: AnnotationsBuilder, folder: VocFolder, stem: str, options: VocOptions) -> None:
    if file_name(stem) is None or climbs(folder.path / "Annotations", f"{stem}.xml"):
        builder.problem(Trouble.LEAVES if file_name(stem) else Trouble.VALUE, f"{shown(stem)} in an image set")
        return
    xml = folder.path / "Annotations" / f"{stem}.xml"
    try:
        tree = read_tree(xml)
    except UnreadableFileError as error:
        builder.problem(Trouble.UNREADABLE, f"{xml.name} ({error.reason})")
        return
    file = folder.path / "JPEGImages" / image_name(builder, folder, stem, tree)
    name = str(file.relative_to(folder.path.parent))
    size, written = annotated_size(tree, file, options.pixels)
    owner = builder.image(file, name, len(builder.files) + 1, size, written)
    for item in tree.iterfind("object"):
        read_object(builder, owner, item, xml.name, options.one_based)


def image_name(builder: AnnotationsBuilder, folder: VocFolder, stem: str, tree: Element) -> str:
    """The image of an annotation: that of its own name; where there is none, the one that ``<filename>`` names."""
    own = folder.by_stem.get(stem, ())
    named = (tree.findtext("filename") or "").strip().replace("\\", "/").rpartition("/")[2]
    if named in ("", ".", "..") or file_name(named) is None:
        named = ""
    if own and named and stem.strip() not in (named, Path(named).stem.strip()):
        builder.note(
            "annotations whose <filename> names another image than their own, which was taken", f"{stem}.xml: {named}"
        )
    if named in own:
        return named
    usual = f"{stem}.jpg"
    if usual in own or not own:
        return named if not own and named in folder.images else usual
    if len(own) > 1:
        builder.note("annotations with several images of their name, of which the first was taken", ", ".join(own))
    return own[0]


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
    try:
        items = read_tree(path).iterfind("object")
    except UnreadableFileError:
        return  # told of where the split is read
    yield from (name for item in items if (name := (item.findtext("name") or "").strip()))


def find(root: Path) -> dict[str, Any] | None:
    """Options of a folder with image sets; classes are those listed, else VOC's where no others occur, else those that occur."""
    sets = find_sets(root) or ({"train": (EVERY,)} if any(root.glob("Annotations/*.xml")) else {})
    if not sets:
        return None
    options = {"root": str(root), **sets}
    if not (root / CLASS_FILE).is_file():
        used = find_classes(root)
        options["classes"] = VOC_CLASSES if set(used) <= set(VOC_CLASSES) else used
    return options


DATASETS.add(
    "voc",
    DataFormat(
        options=VocOptions,
        classes=class_names,
        splits=split_names,
        read=read_split,
        pixels=pixels_of,
        find=find,
        write=write,
        signs="ImageSets/Main/train.txt, here or in a year's folder, and no Annotations/*.xml",
        doc="Pascal VOC folders: Annotations/*.xml, JPEGImages/, ImageSets/Main/*.txt",
    ),
)
