"""One VOC annotation: nothing in it is passed over, and what cannot be taken is shown as written."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from kdflow.data.annotations import AnnotationsBuilder, Pixels, Trouble
from kdflow.data.files import XML_BYTES, UnreadableFileError, read_bytes
from kdflow.data.images import ImageFaultError, read_header
from kdflow.data.values import number, shown, truth

_BOX_TAGS = frozenset(("object", "objects", "bndbox", "xmin", "ymin", "xmax", "ymax"))


def read_tree(path: Path) -> Element:
    """The root of an annotation; raises UnreadableFileError for a file that is none, or of which parts would be passed over."""
    try:
        root = ElementTree.fromstring(read_bytes(path, XML_BYTES))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        if isinstance(error, UnreadableFileError):
            raise
        raise UnreadableFileError(path, f"not XML: {error}") from None
    if root.tag != "annotation":
        raise UnreadableFileError(path, f"its root is <{root.tag}>, not <annotation>")
    stray = next((e.tag for child in root if child.tag != "object" for e in child.iter() if _says_box(e.tag)), None)
    if stray is not None:
        raise UnreadableFileError(path, f"<{stray}> stands where only <object> directly below <annotation> is read")
    if root.find("object") is None and root.find("size") is None:
        raise UnreadableFileError(path, "it has neither <size> nor <object>")
    return root


def _says_box(tag: object) -> bool:
    """True for tags that mean an object or its box, whatever their namespace and case."""
    return isinstance(tag, str) and tag.rpartition("}")[2].lower() in _BOX_TAGS


def annotated_size(tree: Element, file: Path, pixels: Pixels) -> tuple[tuple[int, int], str]:
    """(height, width) as annotated, else as in the image's header, else zeros; and what was written, where it is no size."""
    texts = [(tree.findtext(f"size/{side}") or "").strip() for side in ("height", "width")]
    sides = [number(text or 0) for text in texts]
    if any(side is None or not 0 <= side < 2**31 or side % 1 for side in sides):
        return (0, 0), f"height {shown(texts[0])}, width {shown(texts[1])}"
    height, width = (int(side or 0) for side in sides)
    if height > 0 and width > 0:
        return (height, width), ""
    try:
        return read_header(file, pixels).size, ""
    except ImageFaultError as error:
        return (0, 0), str(error)


def read_object(builder: AnnotationsBuilder, owner: int, item: Element, xml: str, one_based: bool) -> None:
    """Add one ``<object>`` to the image at position ``owner``, or note what is wrong with it."""
    name = (item.findtext("name") or "").strip()
    if name not in builder.classes:
        builder.problem(Trouble.UNKNOWN_CLASS, f"{shown(name)} in {xml}")
        return
    corners = {key: item.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")}
    lacking = [key for key, text in corners.items() if text is None]
    if lacking or len(item.findall("bndbox")) > 1:
        what = f"<bndbox> without {', '.join(lacking)}" if lacking else "several <bndbox>"
        what = what if item.find("bndbox") is not None else f"no <bndbox>, but {_children(item)}"
        builder.problem(Trouble.NO_BOX, f"{name} in {xml} has {what}")
        return
    values = {key: number(text) for key, text in corners.items()}
    wrong = next((key for key, value in values.items() if value is None), None)
    difficult = (item.findtext("difficult") or "0").strip() or "0"
    if wrong is not None:
        builder.problem(Trouble.VALUE, f"{wrong} {shown(corners[wrong])} of {name} in {xml}: a number is expected")
    elif truth(difficult) is None:
        builder.problem(Trouble.VALUE, f"difficult {shown(difficult)} of {name} in {xml}: 0 or 1 is expected")
    else:
        left, top, right, bottom = (value for value in values.values() if value is not None)
        shift = 1.0 if one_based else 0.0  # inclusive corners from 1 become edges from 0
        xywh = (left - shift, top - shift, right - left + shift, bottom - top + shift)
        builder.box(owner, xywh, builder.classes.index(name), bool(truth(difficult)))


def _children(item: Element) -> str:
    return ", ".join(f"<{child.tag}>" for child in list(item)[:6])
