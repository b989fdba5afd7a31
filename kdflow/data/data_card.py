"""The class names in a data card of Hugging Face ``datasets``, read and written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from kdflow.data.files import LIST_BYTES, decode, read_bytes
from kdflow.data.values import class_name, whole

CARD = "README.md"


def card_classes(card: Path) -> tuple[str, ...]:
    """Names of the class labels in the head of a data card; empty where there are none."""
    try:
        text = decode(card, read_bytes(card, LIST_BYTES))
        parts = text.split("\n---", 1) if text.startswith("---") else []
        head = yaml.safe_load(parts[0].removeprefix("---")) if len(parts) == 2 else None
    except Exception:  # no card, or no YAML in it: classes are looked for elsewhere
        return ()
    return next(_label_names(head), ())


def _label_names(head: object) -> Iterator[tuple[str, ...]]:
    """Lists of class labels anywhere in a description of features; parts that YAML repeats are looked at once."""
    waiting, seen = [head], set[int]()
    while waiting:
        value = waiting.pop(0)
        if id(value) in seen or not isinstance(value, (dict, list)):
            continue
        seen.add(id(value))
        labels = value.get("class_label") if isinstance(value, dict) else None
        names = _in_order(labels.get("names")) if isinstance(labels, dict) else []
        if names and all(class_name(name) is not None for name in names) and len(set(names)) == len(names):
            yield tuple(names)
        waiting += value.values() if isinstance(value, dict) else value


def _in_order(names: object) -> list[Any]:
    """Class names as a list, or as a mapping from 0 on without gaps; nothing for anything else."""
    if isinstance(names, dict):
        by_label = {whole(key): name for key, name in names.items()}
        return [by_label[label] for label in range(len(names))] if set(by_label) == set(range(len(names))) else []
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def card_of(classes: tuple[str, ...]) -> str:
    """Text of a card that describes the columns, with the classes in label order."""
    head = yaml.safe_dump({"dataset_info": {"features": _features(classes)}}, sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n"


def _features(classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """The columns as a data card describes them."""
    labels = {"class_label": {"names": {str(label): name for label, name in enumerate(classes)}}}
    objects = [
        {"name": "bbox", "sequence": "float64", "length": 4},
        {"name": "category", "dtype": labels},
        {"name": "area", "dtype": "float64"},
        {"name": "iscrowd", "dtype": "int64"},
    ]
    plain = [
        {"name": name, "dtype": dtype} for name, dtype in (("image", "image"), ("width", "int64"), ("height", "int64"))
    ]
    return [*plain, {"name": "objects", "sequence": objects}]
