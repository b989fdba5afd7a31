"""One result, measured by kdflow or published in the literature, in one immutable form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Origin = Literal["measured", "published"]

BASELINE = "baseline"
"""The method that is no distillation: the plain student, which gains are counted from."""

METRICS: Mapping[str, str] = MappingProxyType({
    "AP": "box AP over IoU 0.50 to 0.95 (COCO)",
    "AP50": "box AP at IoU 0.5 (COCO's interpolation)",
    "AP75": "box AP at IoU 0.75",
    "AP_S": "box AP of small objects",
    "AP_M": "box AP of medium objects",
    "AP_L": "box AP of large objects",
    "mask_AP": "mask AP over IoU 0.50 to 0.95",
    "voc_ap50": "mAP@0.5 as PASCAL VOC counts it (area under the curve)",
    "voc07_ap50": "mAP@0.5 as PASCAL VOC 2007 counts it (11 points)",
    "mAP": "the data set's own mean average precision (KITTI, CrowdHuman)",
    "MR": "log-average miss rate (CrowdHuman); lower is better",
    "JI": "Jaccard index (CrowdHuman)",
    "mIoU": "mean intersection over union (segmentation)",
})
"""Metrics that records know by name, all in percent."""

LOWER_IS_BETTER = frozenset({"MR"})

_NOTHING: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Record:
    """One result.

    Attributes:
        origin: ``measured`` or ``published``; the two are never averaged, and every listing names it.
        method: Slug of the method; ``baseline`` is the plain student.
        bench: Name of the bench. A published record has a setting in words: data set, detector, pair, schedule.
        metrics: Metric name -> percent; a value that is not known is absent.
        classes: Class -> AP; measured records only, those of older versions have none.
        reached: What the teacher reaches on the same images, the best one of several; measured records only.
        bench_variant: What differs from the bench as declared; measured records only.
        dataset: ``shapes``, ``coco2017`` ...
        family: Family of the student: ``two-stage``, ``dense``, ``transformer`` (or ``other``).
        detector: The student's detector.
        student: Its backbone or size.
        teacher: The teacher, with its detector where it differs from the student's.
        nodes: Taxonomy nodes of the terms.
        secondary: Nodes that are secondary tags (second-stage outputs stand at cnn/rpn-roi, and carry cnn/head here).
        rewires: Nodes that are fed something they would not see in plain inference.
        knowledge: ``feature``, ``response``, ``relation``, ``assignment``.
        pair: ``homogeneous``, ``heterogeneous``, ``cross-family``, ``teacher-free`` or empty.
        variant: What differs from the method as declared: overrides, or the variant of a published row.
        ablation: A published row that takes the method apart.
        seed: None where unknown.
        baseline: Published: the plain student as stated in the same source.
        gain: Published: difference to that plain student. Measured gains are counted by a query, over seeds.
        schedule: Length of training in words.
        fidelity: ``code``, ``paper`` or ``reconstructed``: what the formulas follow.
        source: Where the numbers stand.
        verified: False for a published number that is known second hand only, or whose setting is in doubt.
        note: One remark.
        run_id: The run in the tracking store.
        run_hash: Identity of the run: spec, bench, seed and code.
        definition: The same without the seed: runs of one definition are repetitions of each other.
        bench_hash: Identity of the resolved bench; gains are counted inside one.
        status: ``finished``, or how the run ended otherwise.
        started: UTC time in ISO form, empty where unknown.
    """

    origin: Origin
    method: str
    bench: str
    metrics: Mapping[str, float]
    classes: Mapping[str, float] = field(default_factory=lambda: _NOTHING)
    reached: Mapping[str, float] = field(default_factory=lambda: _NOTHING)
    bench_variant: str = ""
    dataset: str = ""
    family: str = ""
    detector: str = ""
    student: str = ""
    teacher: str = ""
    nodes: tuple[str, ...] = ()
    secondary: tuple[str, ...] = ()
    rewires: tuple[str, ...] = ()
    knowledge: tuple[str, ...] = ()
    pair: str = ""
    variant: str = ""
    ablation: bool = False
    seed: int | None = None
    baseline: Mapping[str, float] = field(default_factory=lambda: _NOTHING)
    gain: Mapping[str, float] = field(default_factory=lambda: _NOTHING)
    schedule: str = ""
    fidelity: str = ""
    source: str = ""
    verified: bool = True
    note: str = ""
    run_id: str = ""
    run_hash: str = ""
    definition: str = ""
    bench_hash: str = ""
    status: str = "finished"
    started: str = ""

    @property
    def place(self) -> str:
        """The bench as listings show it."""
        return f"{self.bench} ({self.bench_variant})" if self.bench_variant else self.bench

    @property
    def is_baseline(self) -> bool:
        """True for the plain student (and for plain detectors of the literature)."""
        return self.method == BASELINE
