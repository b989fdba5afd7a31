"""A run's student or teacher, written in a form that others take, and compared with kdflow before it is handed over."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from kdflow.data.formats import open_data
from kdflow.errors import UsageError, choices
from kdflow.experiment.export import export_student
from kdflow.files import in_words
from kdflow.ports import Detector
from kdflow.student.pictures import Pictures
from kdflow.using.export.agree import IN_WORDS, Agreement, compare
from kdflow.using.export.onnx_file import onnx_finder, write_onnx
from kdflow.using.export.pretrained import pretrained_finder, write_pretrained
from kdflow.using.finder import Finder, finder_of
from kdflow.using.forms import written_finder
from kdflow.using.judged import judged
from kdflow.using.saved import Saved, reopen
from kdflow.using.sights import files_of, sights

SHOWN = 16
"""Validation pictures that both forms are shown."""
MEASURED = 1000
"""Test pictures up to which an export is measured unless told otherwise."""
NEAR = 0.1
"""AP by which an export may differ from its run, percent."""
Notes = tuple[str, ...]


@dataclass(frozen=True)
class Order:
    """What is to be written.

    Attributes:
        detector: In evaluation mode, on the CPU.
        pictures: How its evaluation treats pictures.
        folder: Where the files go.
        threshold: Detections have more than this score, where the form has one inside.
        size: (height, width) of the pictures, where a form has to know it.
    """

    detector: Detector
    pictures: Pictures
    folder: Path
    threshold: float = 0.0
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: Where.
        files: Names in it.
        agreement: How its detections compare with kdflow's.
        notes: What is worth knowing of the form.
        ap: AP on the test split through the export, percent; None where it was not measured.
        own: The run's own.
    """

    folder: Path
    files: tuple[str, ...]
    agreement: Agreement
    notes: Notes
    ap: float | None = None
    own: float | None = None

    @property
    def words(self) -> str:
        """Both numbers, for people; empty where they were not measured."""
        if self.ap is None:
            return ""
        if self.own is None:
            return f"test AP {self.ap:.2f} through the export"
        apart = abs(self.ap - self.own)
        said = "" if apart <= NEAR else f": {apart:.2f} apart, where at most {NEAR} was expected"
        return f"test AP {self.ap:.2f} through the export, {self.own:.2f} of the run{said}"


def _torch(order: Order) -> tuple[Finder, Notes]:
    export_student(order.detector, order.folder, order.pictures)
    return written_finder(order.folder), ("predict in student.py takes a picture and a threshold",)


def _safetensors(order: Order) -> tuple[Finder, Notes]:
    export_student(order.detector, order.folder, order.pictures, "student.safetensors")
    return written_finder(order.folder), ("predict in student.py takes a picture and a threshold",)


def _onnx(order: Order) -> tuple[Finder, Notes]:
    written = write_onnx(order.folder / "model.onnx", order.detector, order.pictures, order.threshold, order.size)
    taken = "any size" if written.size is None else f"{written.size[0]} x {written.size[1]} pixels"
    count = "any number of pictures" if written.batch == "any" else "one picture"
    return onnx_finder(written.file), (f"takes {count} at once, 8 bits, {taken}",)


def _pretrained(order: Order) -> tuple[Finder, Notes]:
    write_pretrained(order.folder, order.detector, order.pictures)
    return pretrained_finder(order.folder), ("AutoModelForObjectDetection and AutoImageProcessor load it",)


FORMATS: Mapping[str, Callable[[Order], tuple[Finder, Notes]]] = {
    "onnx": _onnx,
    "torch": _torch,
    "safetensors": _safetensors,
    "hf": _pretrained,
}


def export(
    run: str | Path,
    format: str = "torch",
    output: str | Path | None = None,
    *,
    owner: str = "student",
    threshold: float = 0.0,
    size: tuple[int, int] | None = None,
    check: Sequence[str | Path] = (),
    measured: bool | None = None,
) -> Exported:
    """Write a trained detector in another form, with everything that its evaluation did to a picture.

    Pictures of the validation split are shown to the new form and to kdflow; unless both find the same, nothing is written.
    Then the new form is measured on the test split.

    Args:
        run: A run's folder or name.
        format: ``onnx`` (one file: pictures of 8 bits in, boxes in their pixels out), ``torch`` or ``safetensors`` (weights
            with a ``student.py`` that needs no kdflow), ``hf`` (DETRs: what ``from_pretrained`` reads, with image processor).
        output: Folder; none takes ``export-FORMAT`` in the run's folder (``export-OWNER-FORMAT`` for a teacher).
        owner: ``student``, or the name of a teacher of the run.
        threshold: ONNX: detections have more than this score.
        size: ONNX: (height, width) of the pictures, where the evaluation keeps their aspect ratio.
        check: Pictures to compare on; none takes the validation split.
        measured: Measure it on the test split; None does so where that has up to a thousand pictures.

    Raises:
        UsageError: The family has no such form, the detections differ, or there is nothing to compare on.
    """
    if format not in FORMATS:
        raise UsageError(f'there is no form "{format}".{choices(format, FORMATS)}')
    saved = reopen(run)
    detector = saved.student() if owner == "student" else saved.teacher(owner)
    if owner == "student" and saved.method.wiring and format != "torch":
        raise UsageError(
            f"{saved.method.method} wires its student otherwise than the library: only --format torch knows how"
        )
    name = f"export-{format}" if owner == "student" else f"export-{owner}-{format}"
    place = saved.folder / name if output is None else Path(output)
    with in_words(place):
        place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".export-") as draft:
        order = Order(detector, saved.pictures, Path(draft), threshold, size)
        other, notes = FORMATS[format](order)
        own = finder_of(detector, saved.pictures)
        agreement = compare(own, other, _shown(saved, check, size), threshold)
        _require(agreement, format, own, other)
        ap, reason = _measured(saved, other, order, measured)
        files = _hand_over(Path(draft), place)
    return Exported(place.resolve(), files, agreement, (*notes, *reason), ap, _own(saved, owner))


def _measured(saved: Saved, other: Finder, order: Order, asked: bool | None) -> tuple[float | None, Notes]:
    """AP through the export, or why it was not measured."""
    if asked is False:
        return None, ()
    split = open_data(saved.bench.data.format, saved.bench.data.options).splits["test"]
    if order.threshold > 0:
        return None, ("not measured: detections below the threshold are missing in it",)
    if asked is None and len(split) > MEASURED:
        return None, (f"not measured: the test split has {len(split)} pictures. Next: kdflow eval on this folder",)
    sizes = {(int(height), int(width)) for height, width in split.annotations.sizes}
    if order.size is not None and sizes != {order.size}:
        return None, ("not measured: not all test pictures have this size",)
    return judged(other, split, saved.bench.evaluation).metrics["AP"], ()


def _own(saved: Saved, owner: str) -> float | None:
    """The test AP that the run's record has of its student or a teacher, percent."""
    if saved.result is None:
        return None
    metrics = saved.result.metrics if owner == "student" else saved.result.teachers.get(owner, {}).get("metrics", {})
    found = metrics.get("AP")
    return None if found is None else float(found)


def _require(agreement: Agreement, format: str, own: Finder, other: Finder) -> None:
    if own.classes != other.classes:
        raise UsageError(f"the {format} form is refused: its classes are {', '.join(other.classes)}")
    if not agreement.holds:
        raise UsageError(f"the {format} form is refused: {agreement.words}. Asked for: {IN_WORDS}")


def _shown(saved: Saved, check: Sequence[str | Path], size: tuple[int, int] | None) -> Iterator[Tensor]:
    """Pictures to compare on; of a fixed size alone those that have it."""
    files = files_of(check) if check else _validation(saved)
    shown = 0
    for sight in sights(files, saved.pictures.upright):
        if size is None or sight.size == size:
            shown += 1
            yield sight.image
        if shown == SHOWN:
            return
    if not shown:
        raise UsageError("no picture of this size to compare on. Next: --check FOLDER with some, or another --picture")


def _validation(saved: Saved) -> list[Path]:
    """Validation pictures, evenly spaced, some more than are shown."""
    table = open_data(saved.bench.data.format, saved.bench.data.options).splits["val"].annotations
    step = max(1, len(table) // (4 * SHOWN))
    return [Path(file) for file in table.files[::step]]


def _hand_over(draft: Path, place: Path) -> tuple[str, ...]:
    with in_words(place):
        place.mkdir(parents=True, exist_ok=True)
        for file in sorted(draft.iterdir()):
            if file.name != "__pycache__":
                (place / file.name).unlink(missing_ok=True)
                shutil.move(str(file), str(place / file.name))
    return tuple(sorted(file.name for file in place.iterdir() if file.is_file()))
