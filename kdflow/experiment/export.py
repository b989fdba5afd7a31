"""What a run leaves behind: a student that is free of kdflow, and the filled spec that made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from kdflow.errors import UsageError
from kdflow.experiment.setup import Setting
from kdflow.experiment.teacher import save_atomically
from kdflow.graph.draw import as_svg
from kdflow.ports import Detector

_LOADER = '''

CLASSES = {classes!r}


def load(weights=Path(__file__).with_name("student.pt")):
    """The trained model in evaluation mode; its weights must fit exactly."""
    model = build()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True), strict=True)
    return model.eval()


if __name__ == "__main__":
    print(sum(p.numel() for p in load().parameters()), "parameters,", len(CLASSES), "classes")
'''


_REFUSAL = '''

def build():
    """Refuses: the weights in student.pt are whole, and belong to a model that is wired otherwise than its library's."""
    raise RuntimeError({reason!r})
'''


def export_student(detector: Detector, folder: Path) -> Path:
    """Write ``student.pt`` and a ``student.py`` that builds and loads it with the detector's library alone.

    Args:
        detector: The trained student.
        folder: Where both files go.

    Returns:
        Path of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_atomically(folder / "student.pt", detector.model.state_dict())
    (folder / "student.py").write_text(student_source(detector))
    return (folder / "student.pt").resolve()


def export_notes(detector: Detector) -> tuple[str, ...]:
    """Why ``student.py`` cannot build the student, where a method's wiring does not allow it."""
    try:
        detector.source()
    except UsageError as reason:
        return (f"student.py refuses to build the student: {reason}",)
    return ()


def student_source(detector: Detector) -> str:
    """Source of ``student.py``; where a rewired student has none, a module that says so and refuses to load it."""
    try:
        source, words = detector.source(), "without kdflow: build() makes the model, load() fills in its weights"
    except UsageError as reason:
        source, words = _REFUSAL.format(reason=str(reason)), "which cannot be rebuilt without kdflow"
    head = f'"""The student ({detector.name}), {words}."""\n\n'
    imports = "from pathlib import Path\n\nimport torch\n"
    return head + imports + source.strip() + "\n" + _LOADER.format(classes=detector.classes)


def write_spec(setting: Setting, folder: Path) -> list[Path]:
    """Write the filled method and bench, and the drawing of the graph; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    method = setting.method.model_dump(mode="json", exclude={"variants"})
    bench = setting.bench.model_dump(mode="json")
    file = folder / "run.yaml"
    file.write_text(
        yaml.safe_dump({"method": method, "bench": bench, "seed": setting.seed}, sort_keys=False, width=120)
    )
    if any(term.is_distillation for term in setting.plan.terms):
        (folder / "graph.svg").write_text(as_svg(setting.plan))
        return [file, folder / "graph.svg"]
    return [file]


def write_json(path: Path, content: Any) -> None:
    """Write plain data as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, default=str) + "\n")
