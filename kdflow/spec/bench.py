"""The bench: data, teacher, student, training recipe and evaluation that methods are run in (``specs/benches/<name>.yaml``)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """A document part: unknown keys are refused, values are not changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataSpec(BaseModel):
    """Which data, and how images reach the detectors.

    Keys beside these belong to the format and are checked by it (``root``, ``train``, ``images`` ...).
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    format: str = Field(description="shapes, coco, voc, yolo, or a format added by a plugin")
    size: int = Field(default=800, gt=0, description="shorter side of the resized image, pixels")
    max_size: int = Field(default=1333, gt=0, description="longest allowed side, pixels")
    fixed: bool = Field(default=False, description="resize to exactly size x size (equal images, no padding)")
    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a horizontal flip in training")
    workers: int = Field(default=2, ge=0, description="loader processes")
    resident: bool = Field(default=False, description="keep decoded images in memory (small sets)")

    @property
    def options(self) -> dict[str, Any]:
        """Keys that belong to the format."""
        return dict(self.model_extra or {})


class DetectorSpec(BaseModel):
    """A detector and its options; the options are checked against the detector's builder."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    detector: str
    weights: str | None = Field(
        default=None,
        description="checkpoint file, library weight name, model folder; none starts from random or recipe",
    )

    @property
    def options(self) -> dict[str, Any]:
        """Keys that belong to the detector."""
        return dict(self.model_extra or {})


class Optimizer(Strict):
    """Optimizer by its torch.optim name, with per-module factors on the learning rate."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = Field(default=0.01, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1, description="sgd only")
    weight_decay: float = Field(default=1e-4, ge=0)
    lr_factors: dict[str, float] = Field(default_factory=dict, description="parameter-name pattern -> factor on lr")
    no_decay_norms: bool = Field(default=False, description="no weight decay on norms and biases")
    fused: bool = Field(default=False, description="torch's fused kernels: one call for all parameters")


class Schedule(Strict):
    """Learning rate over time, in fractions of the run or absolute steps."""

    name: Literal["constant", "step", "cosine", "one_cycle", "linear"] = "step"
    warmup: int = Field(default=0, ge=0, description="steps of linear warm-up")
    warmup_factor: float = Field(default=0.001, ge=0, le=1)
    milestones: tuple[float, ...] = Field(
        default=(0.667, 0.917), description="fractions of the run where lr drops (step)"
    )
    factor: float = Field(default=0.1, gt=0, lt=1, description="drop at each milestone (step)")
    final_factor: float = Field(default=0.0, ge=0, description="last lr as a fraction of the first (cosine, linear)")


class Recipe(Strict):
    """How a detector is trained. Length is ``steps`` or ``epochs``, not both."""

    steps: int | None = Field(default=None, gt=0)
    epochs: float | None = Field(default=None, gt=0)
    batch: int = Field(default=2, gt=0, description="images per device and optimizer step, before accumulation")
    accumulate: int = Field(default=1, gt=0, description="batches per optimizer step")
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    clip_norm: float | None = Field(default=None, gt=0, description="largest gradient norm")
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = Field(default=False, description="torch.compile of dense stages, operations and terms")
    channels_last: bool = Field(default=False, description="maps with channels innermost, as tensor cores like them")
    ema: float | None = Field(default=None, gt=0, lt=1, description="decay of the student's moving average")
    norms: Literal["train", "frozen", "sync"] = Field(default="train", description="the student's BatchNorm layers")
    checkpoint_every: int = Field(default=500, gt=0, description="steps")
    evaluate_every: int | None = Field(default=None, gt=0, description="steps; none evaluates at the end only")
    log_every: int = Field(default=20, gt=0, description="steps")

    @model_validator(mode="after")
    def _one_length(self) -> Recipe:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        return self


class TeacherSpec(DetectorSpec):
    """A teacher: its weights, or the recipe that trains it (then cached by a hash of everything that determines it)."""

    recipe: Recipe | None = None
    classes: tuple[str, ...] | None = Field(default=None, description="its label order, where it differs from the data's")
    size: int | None = Field(
        default=None, gt=0, description="input size of this teacher where it differs from the student's"
    )


class Evaluation(Strict):
    """What counts as the result."""

    metric: Literal["AP", "AP50", "voc_ap50"] = Field(
        default="AP", description="chooses the best checkpoint (validation)"
    )
    max_detections: int = Field(default=100, gt=0, description="best-scored detections counted per image and class")
    batch: int | None = Field(default=None, gt=0, description="images per evaluation batch; none: the recipe's")


class Floor(Strict):
    """The plain student's AP50 below which the bench is broken, measured over several seeds."""

    AP50: float
    seeds: int
    measured: str = Field(description="date of the measurement")


class Bench(Strict):
    """One bench file."""

    kdflow: Literal[1]
    bench: str
    title: str = ""
    plugins: tuple[str, ...] = Field(
        default=(), description="Python files with detectors, data formats and ops of one's own, relative to this file"
    )
    data: DataSpec
    student: DetectorSpec
    teacher: TeacherSpec | None = None
    teachers: dict[str, TeacherSpec] = Field(default_factory=dict)
    recipe: Recipe
    evaluation: Evaluation = Evaluation()
    floor: Floor | None = None

    @property
    def all_teachers(self) -> dict[str, TeacherSpec]:
        """Teachers by owner name; a single one is called ``teacher``."""
        single = {"teacher": self.teacher} if self.teacher is not None else {}
        return {**single, **self.teachers}
