"""``kdflow new --bench``: a bench for a folder of pictures, with everything that depends on the data worked out and explained."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kdflow.data.anchors import fit_anchors
from kdflow.data.annotations import Annotations, Trouble
from kdflow.data.files import expand
from kdflow.data.findings import faults_of, raise_faults
from kdflow.data.folders import recognise
from kdflow.data.formats import open_data
from kdflow.data.survey import Survey, sides_at, survey
from kdflow.data.transforms import Geometry
from kdflow.data.values import shown
from kdflow.detectors.known_weights import known_weights
from kdflow.errors import DataError, UsageError, choices
from kdflow.ports import DETECTORS, DetectorFamily

REPAIRED = frozenset({Trouble.NOT_FINITE, Trouble.INVERTED, Trouble.EMPTY, Trouble.OUTSIDE})
"""What ``bad_boxes: repair`` mends."""
HELD_OUT = 0.15
"""Share of the training images for a split that the data lack."""
PARTS = ("backbone", "variant", "model")
"""The option that says how large a detector is, the first that a family has."""
USUAL = {"backbone": ("resnet18", "resnet50"), "variant": ("tiny", "m"), "model": ("", "")}
"""Values of it for student and teacher."""
BETTER = 0.02
"""Mean IoU by which fitted anchors must be better than a detector's own."""
MANY = 5000
"""Training images from which flips alone are enough."""
RESIDENT = 400
"""Megabytes of resized images that are kept in memory."""


@dataclass(frozen=True)
class Draft:
    """A bench that is to be written.

    Attributes:
        text: The file.
        remarks: What its author should know.
    """

    text: str
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """A detector as named on the command line: ``retinanet/resnet18``.

    Attributes:
        detector: Its registered name.
        key: The option that the second word stands for; empty where there is none.
        part: Its value.
    """

    detector: str
    key: str
    part: str

    @classmethod
    def of(cls, text: str, teacher: bool) -> Choice:
        """Read ``DETECTOR`` or ``DETECTOR/BACKBONE`` (or variant, or model); raises UsageError."""
        name, _, part = text.partition("/")
        if name not in DETECTORS:
            raise UsageError(f'no detector "{name}".{choices(name, DETECTORS)} ("kdflow detectors" lists them)')
        fields = DETECTORS.get(name).options.model_fields
        key = next((key for key in PARTS if key in fields), "")
        if part and not key:
            raise UsageError(f'"{text}": {name} has neither {", ".join(PARTS)} to be chosen; write {name}')
        if not DETECTORS.get(name).stands_alone and not (part and key == "model"):
            raise UsageError(
                f"{name} needs options that only its owner knows; write the bench by hand (kdflow detectors {name})"
            )
        if name == "features" and not teacher:
            raise UsageError("features offers no boxes, so it can be a teacher alone")
        return cls(name, key, part or (USUAL[key][teacher] if key else ""))

    @property
    def family(self) -> DetectorFamily:
        """How it is built."""
        return DETECTORS.get(self.detector)

    @property
    def learns(self) -> bool:
        """True for a detector with a head, which a recipe trains."""
        return self.detector != "features"


def draft_bench(
    name: str,
    data: str | Path,
    folder: Path,
    student: str = "retinanet",
    teacher: str | None = None,
    size: int | None = None,
) -> Draft:
    """A bench for a data set.

    Args:
        name: Its name.
        data: Folder of a known format.
        folder: Where the bench will lie: paths in it are relative to this.
        student: ``DETECTOR`` or ``DETECTOR/BACKBONE``.
        teacher: The same; none: the student's detector on a larger backbone.
        size: Shorter side of the input; none: what the objects need.

    Raises:
        DataError: The folder is no data set, or has faults that a bench cannot mend.
        UsageError: No such detector.
    """
    ours = Choice.of(student, teacher=False)
    theirs = Choice.of(teacher or ours.detector, teacher=True)
    format, options = recognise(data)
    options, tables, words = _with_splits(format, options)
    facts = survey(tables)
    if not facts.objects:
        raise DataError(f"{data}: the training split has no boxes to learn from")
    unfetched: list[str] = []
    fixed = not all(choice.family.ragged for choice in (ours, theirs))
    chosen = size or facts.size
    geometry = Geometry(chosen, max(facts.longest(chosen), chosen), fixed)
    lines = [
        *_head(name, facts, tables, format),
        "kdflow: 1",
        f"bench: {name}",
        f"title: {_flow(f'{theirs.detector} to {ours.detector} on {Path(data).resolve().name}')}",
        "data:",
        *_data(format, options, folder, words),
        *_geometry(geometry, facts, size is not None),
        "student:",
        *_detector(ours, tables["train"], geometry, unfetched),
        "teacher:",
        *_detector(theirs, tables["train"], geometry, unfetched),
        *_teacher_recipe(theirs, facts),
        "recipe:",
        *_recipe(ours, facts),
        f"evaluation: {{metric: AP, batch: {_batch(facts)}}}",
    ]
    return Draft("\n".join(lines) + "\n", _remarks(unfetched))


def _remarks(unfetched: list[str]) -> tuple[str, ...]:
    if not unfetched:
        return ()
    backbones = " and ".join(dict.fromkeys(unfetched))
    return (
        f"{backbones} will start from random weights: ImageNet weights are not on this machine, and worth more than any "
        'recipe. Next: take the "#" off before pretrained_backbone to have them fetched, or name a file there',
    )


def _with_splits(format: str, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Annotations], dict[str, str]]:
    """The options with what the data lack, all splits, and what is to be said of the options."""
    words: dict[str, str] = {}
    existing = open_data(format, options).splits.existing
    lacking = [split for split in ("val", "test") if split not in existing]
    if "train" not in existing:
        raise DataError(f"data: there is no train split, only {', '.join(existing)}")
    if "val" in lacking:
        options = {**options, "hold_out": dict.fromkeys(lacking, HELD_OUT)}
        words["hold_out"] = f"there is no {' and no '.join(lacking)} split: always the same images, by their names"
    splits = open_data(format, options).splits
    faults = [fault for name in splits.existing for fault in faults_of(splits.read(name))]
    raise_faults([fault for fault in faults if fault.what not in REPAIRED])
    if faults:
        options = {**options, "bad_boxes": "repair"}
        words["bad_boxes"] = ", ".join(f"{fault.count} x {fault.what}" for fault in faults)
        splits = open_data(format, options).splits
    return options, {name: splits.read(name) for name in splits.existing}, words


def _head(name: str, facts: Survey, tables: Mapping[str, Annotations], format: str) -> list[str]:
    train = tables["train"]
    counts = [int(((train.labels == label) & ~train.ignored).sum()) for label in range(len(train.classes))]
    classes = ", ".join(f"{shown(c)} {n}" for c, n in list(zip(train.classes, counts))[:20])
    more = f" and {len(counts) - 20} more" if len(counts) > 20 else ""
    images = ", ".join(f"{split} {count}" for split, count in facts.images.items())
    return [
        f"# Made by kdflow from a {format} folder: {images} images of about {facts.width}x{facts.height} pixels.",
        f"# Objects in train: {classes}{more}.",
        f'# "kdflow check --bench {name}.yaml" checks it, "kdflow run baseline --bench {name}.yaml" trains the student',
        f'# alone, "kdflow run pkd --bench {name}.yaml" with a teacher. All of it may be changed: "kdflow detectors NAME".',
    ]


def _data(format: str, options: Mapping[str, Any], folder: Path, words: Mapping[str, str]) -> list[str]:
    written = {**options, "root": _relative(Path(options["root"]), folder)}
    notes = {"root": "relative to this file", **words}
    return [f"  format: {format}", *(_line(key, value, notes.get(key, "")) for key, value in written.items())]


def _geometry(geometry: Geometry, facts: Survey, asked: bool) -> list[str]:
    why = (
        "as asked for"
        if asked
        else f"nine of ten objects are at least {facts.smallest * geometry.size:.0f} pixels wide and high at it"
    )
    lines = [_line("size", geometry.size, why)]
    if geometry.fixed:
        lines.append(_line("fixed", True, "these detectors take images of one size alone"))
    else:
        lines.append(_line("max_size", geometry.max_size, "longer pictures are made smaller"))
    megabytes = facts.megabytes(geometry.size)
    if megabytes < RESIDENT:
        lines.append(_line("resident", True, f"resized pictures are kept in memory: {math.ceil(megabytes)} MB"))
    return [*lines, *_augment(facts)]


def _augment(facts: Survey) -> list[str]:
    """Flip alone for many pictures; scale and colour too for few, which would be known by heart otherwise."""
    if facts.images["train"] >= MANY:
        return [_line("flip", 0.5, "0 where left and right mean something, as in writing")]
    return [
        '  augment:                           # few pictures; "kdflow run" says how many boxes these steps cut',
        "    - {name: scale, low: 0.7, high: 1.4}",
        "    - {name: colour}",
        "    - {name: flip, p: 0.5}           # leave it out where left and right mean something, as in writing",
    ]


def _detector(choice: Choice, train: Annotations, geometry: Geometry, unfetched: list[str]) -> list[str]:
    lines = [_line("detector", choice.detector)]
    if choice.key:
        lines.append(_line(choice.key, choice.part))
    if choice.key == "backbone":
        lines += _pretrained(choice, unfetched)
    fields = choice.family.options.model_fields
    if "size" in fields and choice.family.family == "dense":
        lines.append(_line("size", geometry.size, "the input that its boxes are made for"))
    if "anchor_sizes" in fields:
        lines += _anchors(choice, train, geometry)
    if "weights" in fields:
        lines.append(
            "  # weights: NAME                    # released weights (a hub name, folder or file) start far better"
        )
    return lines


def _pretrained(choice: Choice, unfetched: list[str]) -> list[str]:
    """The backbone's ImageNet weights: used where they are on this machine, else named, but fetched by nobody unasked."""
    known = known_weights(choice.part) if "pretrained_backbone" in choice.family.options.model_fields else None
    if known is None or choice.family.library == "transformers":
        return []
    if known.here:
        return [_line("pretrained_backbone", known.name, "ImageNet weights, on this machine already")]
    unfetched.append(choice.part)
    return [f"  # pretrained_backbone: {known.name}    # fetched once from {known.source}; take the # off"]


def _anchors(choice: Choice, train: Annotations, geometry: Geometry) -> list[str]:
    """Anchors that fit the boxes at the input size, where they do so clearly better than the detector's own."""
    boxes, weights = sides_at(train, geometry)
    fields = choice.family.options.model_fields
    built = choice.family.build(train.classes, **({choice.key: choice.part} if choice.key else {}))
    strides = next(port.strides for name, port in built.ports.items() if name == "neck")
    if not len(boxes) or strides is None:
        return []
    own_sizes, own_ratios = fields["anchor_sizes"].default, fields["anchor_ratios"].default
    best, own = fit_anchors(boxes, weights, strides, own_sizes, own_ratios)
    if best.fit - own.fit < BETTER:
        return [f"  # Its own anchors fit these boxes: mean best IoU {own.fit:.2f}."]
    return [
        f"  # Anchors fitted to these boxes at size {geometry.size}: mean best IoU {best.fit:.2f}, its own {own.fit:.2f}.",
        _line("anchor_sizes", [[int(side) for side in level] for level in best.sizes]),
        _line("anchor_ratios", list(best.ratios)),
    ]


def _teacher_recipe(choice: Choice, facts: Survey) -> list[str]:
    if not choice.learns:
        return []
    lines = [f"  {line}" for line in _recipe(choice, facts)]
    return [
        "  recipe:                            # trained once on the same data, then kept for every method and seed",
        *lines,
    ]


def _recipe(choice: Choice, facts: Survey) -> list[str]:
    images, batch = facts.images["train"], _batch(facts)
    epochs = epochs_for(images, choice.family.family)
    steps = max(1, images // batch) * epochs
    slow = choice.family.family == "transformer"
    optimizer = (
        "{name: adamw, lr: 0.0002, weight_decay: 0.0001, no_decay_norms: true}"
        if slow
        else "{name: adamw, lr: 0.0005, weight_decay: 0.05, no_decay_norms: true}"
    )
    warmup = max(1, min(500, steps // 20))
    every = max(1, steps // 8)
    return [
        _line(
            "epochs",
            epochs,
            f"{images} images: {steps} steps. Fewer images are seen more often, between 12 and 120 times",
        ),
        _line("batch", batch, "what memory allows; accumulate: adds up several"),
        f"  optimizer: {optimizer}",
        f"  schedule: {{name: cosine, warmup: {warmup}, final_factor: 0.02}}   # warm-up: a twentieth of the run, or 500 steps",
        _line("clip_norm", 0.1 if slow else 10, "keeps a single odd batch from undoing the weights"),
        _line("evaluate_every", every, "the best of these on val is kept"),
        _line("checkpoint_every", every, '"kdflow run --resume" goes on from the last one'),
    ]


def epochs_for(images: int, family: str) -> int:
    """Passes over the training images: 12 for many images, up to 120 for few; twice that for transformers, which learn slower."""
    epochs = min(120, max(12, round(1200 / math.sqrt(images))))
    return epochs * 2 if family == "transformer" else epochs


def _batch(facts: Survey) -> int:
    return min(8, max(1, facts.images["train"] // 2))


def _line(key: str, value: Any, why: str = "") -> str:
    text = f"  {key}: {_flow(value)}"
    return f"{text:<36} # {why}" if why else text


def _flow(value: Any) -> str:
    """A value as YAML in one line."""
    plain = [*value] if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=math.inf, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _relative(root: Path, folder: Path) -> str:
    """``root`` from the folder of the bench, where that is not farther than the way from the top."""
    absolute = os.path.abspath(expand(root))
    way = os.path.relpath(absolute, os.path.abspath(folder))
    return way if way.count("..") <= 2 else absolute
