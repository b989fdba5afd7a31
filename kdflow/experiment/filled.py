"""What a run's folder says of the run: the filled spec, its drawing, and what its identity is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from kdflow.errors import without_passwords
from kdflow.events import Silent, WeightEvent
from kdflow.experiment.hashes import plain
from kdflow.experiment.identity import Identity, effects
from kdflow.experiment.setup import Setting
from kdflow.files import read_json, write_json, write_text
from kdflow.graph.draw import as_svg
from kdflow.spec.bench import Bench
from kdflow.spec.load import read
from kdflow.spec.method import Method

SPEC, IDENTITY, DRAWING, WEIGHTS = "run.yaml", "identity.json", "graph.svg", "weights.json"
WORDS: Mapping[str, str] = {
    "data": "the content of the data", "weights": "the content of the student's weights",
    "code.student": "the code of the student's detector", "code.ops": "the code of the operations",
    "divisor": "what image sides are padded to",
}
SHOWN = 6
"""Differences that a message lists."""


def write_spec(setting: Setting, folder: Path) -> list[Path]:
    """Write the filled method and bench, without passwords, and the drawing of the graph; returns the files.

    Weights that the run has set by shares of the gradient stand there as numbers, what was declared under ``calibrated``.
    """
    method = content_of(setting.method)
    method["plugins"] = [str((Path(setting.document.file).parent / plugin).absolute()) for plugin in method["plugins"]]
    bench = setting.bench.model_dump(mode="json")
    bench["plugins"] = [str((setting.place / plugin).absolute()) for plugin in bench["plugins"]]
    content = {"method": method, "bench": bench, "seed": setting.seed}
    if weights := read_weights(folder):
        declared = {name: method["terms"][name]["weight"] for name in weights if name in method["terms"]}
        content["calibrated"] = {"recipe.calibrate": bench["recipe"]["calibrate"], "weights": declared}
        bench["recipe"]["calibrate"] = None
        for name in declared:
            method["terms"][name]["weight"] = weights[name]
    text = yaml.safe_dump(content, sort_keys=False, width=120)
    files = [write_text(folder / SPEC, without_passwords(text))]
    if any(term.is_distillation for term in setting.plan.terms):
        files.append(write_text(folder / DRAWING, as_svg(setting.plan)))
    return files


def content_of(method: Method) -> dict[str, Any]:
    """A resolved method as a file that stands alone: variants, a wrapped method and constants are in it already."""
    content = method.model_dump(mode="json", exclude={"variants", "wraps"})
    content["search"] = {path: found for path, found in content["search"].items() if not path.startswith("constants.")}
    return content


def read_weights(folder: Path) -> dict[str, float]:
    """Weights that the run in a folder has set by shares of the gradient, by term; empty where it has set none."""
    content = read_json(folder / WEIGHTS)
    found = content if isinstance(content, dict) else {}
    return {term: weight for term, weight in found.items() if isinstance(weight, (int, float))}


class FilledWeights(Silent):
    """Completes the filled spec once weights are set.

    Args:
        setting: The run.
        folder: Its folder.
        keep: Called with the filled spec.
    """

    def __init__(self, setting: Setting, folder: Path, keep: Callable[[Path], None]) -> None:
        self.setting, self.folder, self.keep = setting, folder, keep

    def weights_changed(self, event: WeightEvent) -> None:
        """Write down what was set; what a controller changes is no part of the spec."""
        if event.calibrated:
            found = {change.term.partition("/")[2]: abs(change.after) for change in event.changes}
            write_json(self.folder / WEIGHTS, {**read_weights(self.folder), **found})
            self.keep(write_spec(self.setting, self.folder)[0])


def write_identity(identity: Identity, folder: Path) -> Path:
    """Write what the run's hash is made of, so that another run can say how it differs."""
    return write_json(folder / IDENTITY, {"run": identity.run, "parts": hidden(identity.parts)})


def hidden(value: Any) -> Any:
    """Plain data without passwords."""
    if isinstance(value, Mapping):
        return {key: hidden(item) for key, item in value.items()}
    if isinstance(value, list):
        return [hidden(item) for item in value]
    return without_passwords(value) if isinstance(value, str) else value


def nearest(identity: Identity, folder: Path, method: str) -> str | None:
    """The folder of the method's run beside ``folder`` that differs least, and in what; None where there is none."""
    found: list[tuple[int, str, list[str]]] = []
    for other in sorted(folder.parent.glob(f"{method}-s*")):
        if other != folder and (differences := _differences(identity, other)) is not None:
            found.append((len(differences), str(other), differences))
    if not found:
        return None
    count, place, differences = min(found)
    words = ", ".join(differences[:SHOWN]) + (f" and {count - SHOWN} more" if count > SHOWN else "")
    return f"{place}, which differs in: {words}"


def _differences(identity: Identity, folder: Path) -> list[str] | None:
    """In words what a run in another folder has otherwise; None where that is not known."""
    content = read_json(folder / IDENTITY)
    if isinstance(content, dict) and isinstance(content.get("parts"), dict):
        return _in_words(content["parts"], hidden(identity.parts)) or ["nothing that was written down"]
    was = _older(folder / SPEC)
    if was is None:
        return None
    now = {key: hidden(identity.parts)[key] for key in was}
    return _in_words(was, now) or ["what older versions did not write down (code, data or threads)"]


def _older(file: Path) -> dict[str, Any] | None:
    """What the filled spec of an older version tells of the run's identity."""
    try:
        content = read(file).data
        method, bench = Method.model_validate(content["method"]), Bench.model_validate(content["bench"])
        parts = plain({"method": effects(method), "bench": effects(bench), "seed": content["seed"]})
    except (ValueError, TypeError, KeyError):
        return None
    for key in ("teacher", "teachers"):
        parts["bench"].pop(key, None)
    parts["bench"]["student"].pop("weights", None)
    return parts


def _in_words(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """``recipe.steps is 8, here 10``, for every leaf that differs."""
    old, new = leaves(was), leaves(now)
    return [
        WORDS.get(path) or _teacher(path) or f"{path.removeprefix('bench.')} is {old.get(path)}, here {new.get(path)}"
        for path in dict.fromkeys([*new, *old]) if old.get(path) != new.get(path)
    ]


def _teacher(path: str) -> str:
    return f"the {path.removeprefix('teachers.')}" if path.startswith("teachers.") else ""


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Dotted path -> value."""
    if isinstance(value, Mapping) and value:
        return {k: v for key, item in value.items() for k, v in leaves(item, f"{path}.{key}" if path else str(key)).items()}
    return {path: value}
