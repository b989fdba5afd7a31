"""What a run leaves behind: a student that is free of kdflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from kdflow.errors import UsageError
from kdflow.experiment.teacher import save_atomically
from kdflow.files import in_words, replacing, write_text
from kdflow.ports import Detector
from kdflow.student import pictures as student_pictures
from kdflow.student.pictures import Pictures

_USE = '''

def load(weights=Path(__file__).with_name({file!r})):
    """The trained model in evaluation mode; its weights must fit exactly."""
    model = build()
    model.load_state_dict({read}, strict=True)
    return model.eval()


def predict(picture, model=None, threshold=0.0):
    """What the student finds in a picture: a file, a PIL image, or a (3, H, W) tensor, uint8 or floats in 0..1.

    The picture is treated as in the evaluation. Returns boxes (n, 4) xyxy in pixels of the picture, scores and labels (n,), and
    the names of the classes, of all detections above a score. Without a model the trained one is loaded.
    """
    image = read(picture, PICTURES.upright)
    found = {detect}
    boxes = on_picture(found["boxes"], *image.shape[-2:])
    return {{**found, "boxes": boxes, "names": [CLASSES[int(label)] for label in found["labels"]]}}


if __name__ == "__main__":
    student = load()
    print(sum(p.numel() for p in student.parameters()), "parameters,", len(CLASSES), "classes")
    for path in sys.argv[1:]:
        found = predict(path, student, threshold=0.5)
        for name, score, box in zip(found["names"], found["scores"].tolist(), found["boxes"].tolist()):
            print(path, name, round(score, 3), [round(side, 1) for side in box])
'''
_DETECT = {
    "torchvision": "detect(model or load(), image, threshold, **DETECT)",
    "transformers": "detect(model or load(), image, threshold, PICTURES, **DETECT)",
}


_IMPORTS = {"student.safetensors": ("from safetensors.torch import load_file",)}

_REFUSAL = '''"""The student ({name}), which cannot be rebuilt without kdflow."""


def build():
    """Refuses: the weights in student.pt are whole, and belong to a model that is wired otherwise than its library's."""
    raise RuntimeError({reason!r})


load = predict = build
'''


_READ = {
    "student.pt": "torch.load(weights, map_location=\"cpu\", weights_only=True)",
    "student.safetensors": "load_file(weights)",
}


def export_student(detector: Detector, folder: Path, pictures: Pictures, file: str = "student.pt") -> Path:
    """Write ``student.pt`` and a ``student.py`` that builds, loads and uses it with the detector's library alone.

    Args:
        detector: The trained student.
        folder: Where both files go.
        pictures: How the evaluation treated pictures; the exported student treats them alike.
        file: ``student.pt``, or ``student.safetensors``.

    Returns:
        Path of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if file.endswith(".safetensors"):
        save_tensors(folder / file, detector.model.state_dict())
    else:
        save_atomically(folder / file, detector.model.state_dict())
    write_text(folder / "student.py", student_source(detector, pictures, file))
    return (folder / file).resolve()


def save_tensors(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state dict as safetensors; values that share their memory are written each."""
    from safetensors.torch import save_file

    with in_words(path), replacing(path) as draft:
        save_file({name: value.detach().cpu().clone().contiguous() for name, value in state.items()}, draft)


def export_notes(detector: Detector) -> tuple[str, ...]:
    """Why ``student.py`` cannot build the student, where a method's wiring does not allow it."""
    try:
        detector.source()
    except UsageError as reason:
        return (f"student.py refuses to build the student: {reason}",)
    return ()


def student_source(detector: Detector, pictures: Pictures, file: str = "student.pt") -> str:
    """Text of ``student.py``; where a rewired student has no source, a module that says so and refuses to load it."""
    try:
        source = detector.source()
    except UsageError as reason:
        return _REFUSAL.format(name=detector.name, reason=str(reason))
    treatment = ["model.transform = AsEvaluated(model.transform, PICTURES)"] if source.library == "torchvision" else []
    whole = replace(
        source.carrying(student_pictures, import_module(f"kdflow.student.{source.library}_model")).then(
            *treatment,
            imports=("import sys", "from pathlib import Path", *_IMPORTS.get(file, ())),
            constants={"CLASSES": detector.classes, "DETECT": dict(source.detect)},
            definitions=(f"PICTURES = Pictures(**{vars(pictures)!r})",),
        ),
        title=f"The student ({detector.name}) without kdflow: {source.title}, its weights, and its way with pictures.",
    )
    return whole.text() + _USE.format(detect=_DETECT[source.library], file=file, read=_READ[file])
