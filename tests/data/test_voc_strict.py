"""What a VOC folder says is never guessed away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdflow.data.annotations import Annotations, Trouble
from kdflow.data.check import check_data, require_ready
from kdflow.data.folders import open_folder
from kdflow.data.formats import DataSource, open_data
from kdflow.data.transforms import Geometry
from kdflow.errors import DataError, UsageError
from tests.data.conftest import save_image

Write = Callable[..., Path]
DOG = ("dog", (3, 5, 12, 14), 0)
GOOD = "<size><width>30</width><height>20</height></size>"
BOX = "<bndbox><xmin>3</xmin><ymin>5</ymin><xmax>12</xmax><ymax>14</ymax></bndbox>"
OBJECT = f"<object><name>dog</name>{BOX}</object>"
BOMB = "".join(f'<!ENTITY e{k + 1} "{f"&e{k};" * 10}">' for k in range(9))


@pytest.fixture
def folder(write_voc: Write) -> Path:
    """A folder with the images a and b; a is the training split, b the other."""
    write_voc("mine", "train", {"a": [DOG]})
    return write_voc("mine", "val", {"b": [DOG]}) / "mine"


def opened(folder: Path, **options: object) -> DataSource:
    return open_data("voc", {"root": str(folder), "train": "train", "val": "val", **options})


def table(folder: Path, xml: str | bytes) -> Annotations:
    """The training split with this annotation of a.jpg."""
    (folder / "Annotations/a.xml").write_bytes(xml if isinstance(xml, bytes) else xml.encode())
    return opened(folder).splits.read("train")


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        (f'<annotation xmlns="urn:x">{GOOD}{OBJECT}</annotation>', "its root is <{urn:x}annotation>, not <annotation>"),
        (f"<Annotation>{GOOD}{OBJECT}</Annotation>", "its root is <Annotation>"),
        (f"<root><annotation>{GOOD}{OBJECT}</annotation></root>", "its root is <root>"),
        ("<html><body>Not found</body></html>", "its root is <html>"),
        (f"<annotation>{GOOD}{OBJECT.replace('object', 'Object')}</annotation>", "<Object> stands where only <object>"),
        (f"<annotation>{GOOD}<objects>{OBJECT}</objects></annotation>", "<objects> stands where"),
        (f"<annotation>{GOOD}<items>{OBJECT}</items></annotation>", "<object> stands where"),
        (f"<annotation>{GOOD}<item><name>dog</name>{BOX}</item></annotation>", "<bndbox> stands where"),
        (f'<annotation>{GOOD}<o:object xmlns:o="urn:x">{BOX}</o:object></annotation>', "<{urn:x}object> stands where"),
        ("<annotation><filename>a.jpg</filename></annotation>", "it has neither <size> nor <object>"),
        ("<annotation/>", "it has neither"),
        ("", "not XML"),
        ('<?xml version="1.0" encoding="no-such"?><annotation/>', "not XML"),
        (f"<annotation>{GOOD}<note>Käfer</note></annotation>".encode("latin-1"), "not XML"),
        (f"<!DOCTYPE a [{BOMB}]><annotation>&e9;</annotation>", "not XML"),
    ],
)
def test_what_is_no_annotation_is_a_fault_and_never_an_image_without_boxes(folder: Path, xml: str | bytes, words: str):
    found = table(folder, xml)
    assert len(found) == 0
    (problem,) = found.problems
    assert problem.trouble == Trouble.UNREADABLE
    assert problem.example.startswith(f"a.xml ({words}")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_xml_says_its_own_encoding(folder: Path, encoding: str):
    name = encoding.removesuffix("-sig")
    xml = f'<?xml version="1.0" encoding="{name}"?><annotation>{GOOD}{OBJECT}<note>Käfer</note></annotation>'
    assert len(table(folder, xml.encode(encoding)).boxes) == 1


def test_parts_of_an_object_and_an_image_without_objects_are_fine(folder: Path):
    part = f"<part><name>head</name>{BOX}</part>"
    assert len(table(folder, f"<annotation>{GOOD}<object><name>dog</name>{BOX}{part}</object></annotation>").boxes) == 1
    empty = table(folder, f"<annotation>{GOOD}</annotation>")
    assert (len(empty), len(empty.boxes), empty.problems) == (1, 0, ())


@pytest.mark.parametrize(
    ("text", "difficult"),
    [
        ("0", False),
        ("1", True),
        (" 1 ", True),
        ("", False),
        ("True", True),
        ("false", False),
        ("1.0", True),
        ("yes", None),
        ("2", None),
    ],
)
def test_difficult_is_taken_where_it_is_unmistakable(folder: Path, text: str, difficult: bool | None):
    found = table(
        folder, f"<annotation>{GOOD}<object><name>dog</name><difficult>{text}</difficult>{BOX}</object></annotation>"
    )
    if difficult is None:
        assert [(p.trouble, p.example) for p in found.problems] == [
            (Trouble.VALUE, f'difficult "{text}" of dog in a.xml: 0 or 1 is expected')
        ]
    else:
        assert found.ignored.tolist() == [difficult]


@pytest.mark.parametrize("text", ["12,5", "12px", "1_2", "", "0x12", "\u0661"])
def test_corners_that_are_no_numbers_are_shown(folder: Path, text: str):
    found = table(folder, f"<annotation>{GOOD}{OBJECT.replace('>12<', f'>{text}<')}</annotation>")
    assert [(p.trouble, p.example) for p in found.problems] == [
        (Trouble.VALUE, f'xmax "{text}" of dog in a.xml: a number is expected')
    ]


@pytest.mark.parametrize("text", ["nan", "9" * 5000, "1e400"])
def test_corners_that_are_not_finite_are_boxes_without_four_finite_numbers(folder: Path, text: str):
    found = table(folder, f"<annotation>{GOOD}{OBJECT.replace('>12<', f'>{text}<')}</annotation>")
    assert found.faulty()[Trouble.NOT_FINITE].tolist() == [True]


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        ("<polygon/>", "dog in a.xml has no <bndbox>, but <name>, <polygon>"),
        (BOX.replace("<xmin>3</xmin>", ""), "dog in a.xml has <bndbox> without xmin"),
        (BOX.replace("xmin", "Xmin"), "dog in a.xml has <bndbox> without xmin"),
        (BOX + BOX, "dog in a.xml has several <bndbox>"),
    ],
)
def test_an_object_without_one_box_is_a_fault(folder: Path, inside: str, words: str):
    found = table(folder, f"<annotation>{GOOD}<object><name>dog</name>{inside}</object></annotation>")
    assert [(p.trouble, p.example) for p in found.problems] == [(Trouble.NO_BOX, words)]


@pytest.mark.parametrize("width", ["wide", "-30", "30.5", "9" * 5000])
def test_sizes_that_cannot_be_taken_are_shown(folder: Path, width: str):
    found = table(folder, f"<annotation>{GOOD.replace('>30<', f'>{width}<')}{OBJECT}</annotation>")
    assert [p.trouble for p in found.problems] == [Trouble.NO_SIZE]
    assert f'height "20", width "{width[:20]}' in found.problems[0].example


def test_a_size_that_is_not_written_is_that_of_the_file(folder: Path):
    for size in ("", "<size/>", GOOD.replace("30", "0").replace("20", "0")):
        assert table(folder, f"<annotation>{size}{OBJECT}</annotation>").sizes.tolist() == [[20, 30]]


def test_the_image_of_the_annotations_own_name_comes_first_and_a_contradiction_is_told(folder: Path):
    found = table(folder, f"<annotation><filename>b.jpg</filename>{GOOD}{OBJECT}</annotation>")
    assert [Path(file).name for file in found.files] == ["a.jpg"]
    (note,) = found.notes
    assert (note.count, note.examples) == (1, ("a.xml: b.jpg",))
    assert "<filename> names another image than their own" in str(check_data(opened(folder)))
    assert any("names another image" in str(finding) for finding in require_ready(opened(folder), Geometry()))


@pytest.mark.parametrize("filename", ["a.jpg", "a", "a.JPG", "C:\\set\\a.jpg", "/home/x/a.png", ""])
def test_file_names_that_mean_the_same_image_are_no_contradiction(folder: Path, filename: str):
    assert table(folder, f"<annotation><filename>{filename}</filename>{GOOD}{OBJECT}</annotation>").notes == ()


@pytest.mark.parametrize("own", ["a.png", "a.JPEG", "a.bmp"])
def test_the_own_image_may_have_any_ending(folder: Path, own: str):
    save_image(folder / "JPEGImages" / f"a.{own[2:].lower()}", 20, 30)
    (folder / "JPEGImages" / f"a.{own[2:].lower()}").rename(folder / "JPEGImages" / own)
    (folder / "JPEGImages/a.jpg").unlink()
    found = table(folder, f"<annotation><filename>b.jpg</filename>{GOOD}{OBJECT}</annotation>")
    assert [Path(file).name for file in found.files] == [own]


def test_without_an_own_image_the_named_one_is_taken_unless_another_annotation_has_it(folder: Path):
    (folder / "JPEGImages/a.jpg").rename(folder / "JPEGImages/other.jpg")
    xml = f"<annotation><filename>other.jpg</filename>{GOOD}{OBJECT}</annotation>"
    assert [Path(file).name for file in table(folder, xml).files] == ["other.jpg"]
    table(folder, xml.replace("other", "b"))
    (folder / "ImageSets/Main/train.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match="image file listed twice: 2"):
        opened(folder).splits["train"]


@pytest.mark.parametrize("one_based", [True, False])
def test_shares_of_the_image_instead_of_pixels_are_a_fault(folder: Path, one_based: bool):
    for stem in "ab":
        xml = folder / f"Annotations/{stem}.xml"
        xml.write_text(
            xml.read_text()
            .replace(">3<", ">0.1<")
            .replace(">12<", ">0.6<")
            .replace(">5<", ">0<")
            .replace(">14<", ">1<")
        )
    faults = [fault.what for fault in check_data(opened(folder, one_based=one_based)).faults]
    assert faults.count(Trouble.NORMALISED) == 2


def test_names_with_spaces_and_lists_with_marks(folder: Path):
    (folder / "JPEGImages/a.jpg").rename(folder / "JPEGImages/my image 1.jpg")
    (folder / "Annotations/a.xml").rename(folder / "Annotations/my image 1.xml")
    for line in ("my image 1", "  my image 1\t", "my image 1  1", "my image 1 -1"):
        (folder / "ImageSets/Main/train.txt").write_text(f"{line}\r\n\r\n")
        assert [Path(name).name for name in opened(folder).splits["train"].annotations.names] == ["my image 1.jpg"]


@pytest.mark.parametrize("line", ["../../secret", "/etc/passwd", "a/../../../secret"])
def test_lines_of_an_image_set_that_leave_the_folder_are_refused(folder: Path, tmp_path: Path, line: str):
    (tmp_path / "secret.xml").write_text(f"<annotation>{GOOD}{OBJECT}</annotation>")
    (folder / "ImageSets/Main/train.txt").write_text(line)
    (problem,) = opened(folder).splits.read("train").problems
    assert (problem.trouble, problem.example) == (Trouble.LEAVES, f'"{line}" in an image set')


def test_images_that_are_links_out_of_the_set_are_refused(folder: Path, tmp_path: Path):
    save_image(tmp_path / "secret.jpg", 20, 30)
    (folder / "JPEGImages/a.jpg").unlink()
    (folder / "JPEGImages/a.jpg").symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(DataError, match="image file outside the data set: 1"):
        opened(folder).splits["train"]


def test_the_class_file_lists_every_class_once(folder: Path):
    (folder / "classes.txt").write_text("cat\n\n dog \ncat\n")
    with pytest.raises(DataError, match=r'classes\.txt .*"cat" stands in line 1 and in line 4'):
        open_folder(folder)
    (folder / "classes.txt").write_text("\n \n")
    with pytest.raises(DataError, match="it lists no class"):
        open_folder(folder)
    (folder / "classes.txt").write_bytes("\ufeffcat\r\ndog\r\n".encode())
    assert open_folder(folder).classes == ("cat", "dog")
    with pytest.raises(UsageError, match=r'data\.classes: "dog" is blank, or listed twice'):
        opened(folder, classes=["dog", "cat", "dog"])


@pytest.mark.parametrize("name", ["classes.txt", "ImageSets/Main/train.txt"])
def test_lists_of_another_encoding_are_named(folder: Path, name: str):
    for encoding in ("utf-16", "latin-1"):
        (folder / name).write_bytes("Käfer\n".encode(encoding))
        with pytest.raises(
            DataError, match=rf"{name.rpartition('/')[2]}  annotation file cannot be read: .*save it as UTF-8"
        ):
            opened(folder).splits["train"]
