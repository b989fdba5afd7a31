"""The literature's numbers, ``taxonomy/published/<method>.yaml``, as records."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from kdflow.errors import KdflowError, choices
from kdflow.resources import taxonomy_folder
from kdflow.results.record import BASELINE, METRICS, Record
from kdflow.taxonomy import load_tree

Pair = Literal["", "homogeneous", "heterogeneous", "cross-family", "teacher-free"]
Knowledge = Literal["feature", "response", "relation", "assignment"]
Family = Literal["two-stage", "dense", "transformer", "other"]


def _known_node(name: str) -> str:
    tree = load_tree()
    if name not in tree:
        raise ValueError(f'no taxonomy node "{name}".{choices(name, [node.id for node in tree])}')
    return name


def _known_metrics(values: dict[str, float]) -> dict[str, float]:
    for name in values:
        if name not in METRICS:
            raise ValueError(f'no metric "{name}".{choices(name, METRICS)}')
    return values


NodeId = Annotated[str, AfterValidator(_known_node)]
Differences = Annotated[dict[str, float], AfterValidator(_known_metrics)]
Metrics = Annotated[dict[str, Annotated[float, Field(ge=0, le=100)]], AfterValidator(_known_metrics)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReviewRow(_Strict):
    """How a review of 2023 prints the row, kept because its labels are not always right.

    Attributes:
        table: 1 to 3.
        label: The printed name.
        pair: The printed pair or backbone.
        reference: The printed number of the reference.
        note: What is wrong with the print, where something is.
    """

    table: Literal[1, 2, 3]
    label: str
    pair: str
    reference: int | None = None
    note: str = ""


class PublishedRow(_Strict):
    """One number of the literature with all that is known of its setting. A key that is not known is left out.

    Attributes:
        dataset: Training and test data in one word.
        split: Test split where it is not the usual one.
        detector: The student's detector.
        family: Its family.
        role: ``method`` for a distilled student; ``student``, ``teacher``, ``plain`` for plain detectors.
        student: The student's backbone or size.
        teacher: The teacher's; with its detector where that differs.
        pair: How the two relate; empty where unknown.
        variant: Which form of the method, if not the main one.
        ablation: The row takes the method apart.
        nodes: Where this row's terms act, if not where the method's terms do.
        schedule: Length of training.
        teacher_result: The teacher's own numbers.
        baseline: The plain student's numbers, from the same source.
        result: The distilled student's numbers.
        gain: Stated difference, where no result is known.
        sources: Where the numbers were read.
        verified: They were read in a publication or repository of those who report them; else they are known from a
            review or a summary only.
        review: The row of the 2023 review, if it has one.
        note: One remark.
    """

    dataset: str
    split: str = ""
    detector: str
    family: Family
    role: Literal["method", "student", "teacher", "plain"] = "method"
    student: str = ""
    teacher: str = ""
    pair: Pair = ""
    variant: str = ""
    ablation: bool = False
    nodes: tuple[NodeId, ...] | None = None
    schedule: str = ""
    teacher_result: Metrics = Field(default_factory=dict)
    baseline: Metrics = Field(default_factory=dict)
    result: Metrics = Field(default_factory=dict)
    gain: Differences = Field(default_factory=dict)
    sources: tuple[str, ...] = Field(min_length=1)
    verified: bool
    review: ReviewRow | None = None
    note: str = ""

    @model_validator(mode="after")
    def _has_a_number(self) -> PublishedRow:
        if not self.result and not self.gain:
            raise ValueError("a row needs a result or a gain")
        if self.result and self.gain:
            raise ValueError("the gain follows from result and baseline; write it only where no result is known")
        return self

    @property
    def setting(self) -> str:
        """Data set, detector, pair and schedule in words."""
        pair = f"{self.teacher} -> {self.student}" if self.teacher and self.student else self.teacher or self.student
        words = [self.dataset, self.split, self.detector, pair]
        return " ".join(word for word in words if word) + (f", {self.schedule}" if self.schedule else "")

    @property
    def difference(self) -> dict[str, float]:
        """Gain over the baseline of the same source, per metric that both have."""
        if self.gain:
            return dict(self.gain)
        both = self.result.keys() & self.baseline.keys()
        return {name: round(self.result[name] - self.baseline[name], 4) for name in METRICS if name in both}


class PublishedFile(_Strict):
    """One method's numbers.

    Attributes:
        method: Slug, the name of the file.
        title: Title of the paper.
        paper: Identifier or venue.
        aliases: Other names it is cited by.
        nodes: Where its terms act.
        secondary: Secondary tags.
        rewires: Nodes that it rewires.
        knowledge: What its terms compare.
        pairs: Which pairs it is made for.
        notes: Remarks on the whole file.
        claims: What the paper says in words, where the numbers behind it were not seen.
        rows: The numbers.
    """

    method: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str
    paper: str = ""
    aliases: tuple[str, ...] = ()
    nodes: tuple[NodeId, ...]
    secondary: tuple[NodeId, ...] = ()
    rewires: tuple[NodeId, ...] = ()
    knowledge: tuple[Knowledge, ...]
    pairs: tuple[Pair, ...]
    notes: str = ""
    claims: tuple[str, ...] = ()
    rows: tuple[PublishedRow, ...]

    @model_validator(mode="after")
    def _roles_fit(self) -> PublishedFile:
        plain = self.method == BASELINE
        if any((row.role == "method") is plain for row in self.rows):
            raise ValueError(f'plain detectors stand in {BASELINE}.yaml and nowhere else')
        if not plain and not self.nodes:
            raise ValueError("a method stands at one node at least")
        return self

    def records(self) -> tuple[Record, ...]:
        """The rows as records."""
        return tuple(self._record(row) for row in self.rows)

    def _record(self, row: PublishedRow) -> Record:
        return Record(
            origin="published", method=self.method, bench=row.setting, metrics=dict(row.result), dataset=row.dataset,
            family=row.family, detector=row.detector, student=row.student, teacher=row.teacher,
            nodes=self.nodes if row.nodes is None else row.nodes, secondary=self.secondary, rewires=self.rewires,
            knowledge=self.knowledge, pair=row.pair, variant=row.variant, ablation=row.ablation,
            baseline=dict(row.baseline), gain=row.difference, schedule=row.schedule, source="; ".join(row.sources),
            verified=row.verified, note=_remarks(row),
        )


def _remarks(row: PublishedRow) -> str:
    printed = row.review.note if row.review else ""
    return " ".join(text if text.endswith(".") else f"{text}." for text in (row.note, printed) if text)


def read_published_file(path: Path) -> PublishedFile:
    """One checked file; raises KdflowError with every fault of it."""
    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = PublishedFile.model_validate(data)
    except (OSError, yaml.YAMLError) as error:
        raise KdflowError(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        faults = [f"{path}  {_dotted(fault['loc'])}: {fault['msg']}" for fault in error.errors()]
        raise KdflowError("\n".join(faults)) from None
    if found.method != path.stem:
        raise KdflowError(f'{path}  method: "{found.method}" must be the name of the file')
    return found


def _dotted(place: tuple[str | int, ...]) -> str:
    return ".".join(map(str, place)) or "the file"


@cache
def load_published(folder: Path | None = None) -> Mapping[str, PublishedFile]:
    """All files by method slug, sorted.

    Args:
        folder: Another folder of files; none takes the one that comes with kdflow.

    Raises:
        KdflowError: A file is wrong, or there is none.
    """
    place = folder or taxonomy_folder() / "published"
    files = [read_published_file(path) for path in sorted(place.glob("*.yaml"))]
    if not files:
        raise KdflowError(f"{place}: no published results here")
    return {file.method: file for file in files}


def published_records(folder: Path | None = None) -> tuple[Record, ...]:
    """Every published number as a record, in the order of files and rows."""
    return tuple(record for file in load_published(folder).values() for record in file.records())
