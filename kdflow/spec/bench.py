"""The bench: data, teacher, student, training recipe and evaluation that methods are run in (``specs/benches/<name>.yaml``)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

SLUG = r"^[a-z0-9][a-z0-9-]*$"
"""Names of methods and benches, which become names of files, runs and columns."""
MAX_SIDE = 8192
"""Longest side of an input in pixels; beyond it a batch alone fills any device."""
MAX_STEPS = 1_000_000_000

class Strict(BaseModel):
    """A document part: unknown keys are refused, values are not changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataSpec(BaseModel):
    """Which data, and how images reach the detectors.

    Keys beside these belong to the format and are checked by it (``root``, ``train``, ``images`` ...).
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    format: str = Field(description="shapes, coco, voc, yolo, or a format added by a plugin")
    size: int = Field(default=800, gt=0, le=MAX_SIDE, description="shorter side of the resized image, pixels")
    max_size: int = Field(default=1333, gt=0, le=MAX_SIDE, description="longest allowed side, pixels")
    fixed: bool = Field(default=False, description="resize to exactly size x size (equal images, no padding)")
    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a horizontal flip in training")
    workers: int = Field(default=2, ge=0, le=256, description="loader processes")
    resident: bool = Field(default=False, description="keep decoded images in memory (small sets)")

    @model_serializer(mode="wrap")
    def _effective(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What has an effect, so that a dumped part can be read again."""
        return {key: value for key, value in inner(self).items() if not (self.fixed and key == "max_size")}

    @model_validator(mode="after")
    def _sides_in_order(self) -> DataSpec:
        if self.fixed and "max_size" in self.model_fields_set:
            raise ValueError("max_size has no effect on images of a fixed size; leave one of the two out")
        if not self.fixed and self.max_size < self.size:
            raise ValueError(f"max_size {self.max_size} is below size {self.size}; the longest side is the larger one")
        return self

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
    lr: float = Field(default=0.01, gt=0, le=100)
    momentum: float = Field(default=0.9, ge=0, lt=1, description="sgd only")
    weight_decay: float = Field(default=1e-4, ge=0, le=10)
    lr_factors: dict[str, float] = Field(default_factory=dict, description="parameter-name pattern -> factor on lr, above 0")
    no_decay_norms: bool = Field(default=False, description="no weight decay on norms and biases")
    fused: bool = Field(default=False, description="torch's fused kernels: one call for all parameters")

    @field_validator("lr_factors")
    @classmethod
    def _above_zero(cls, factors: dict[str, float]) -> dict[str, float]:
        for pattern, factor in factors.items():
            if not 0 < factor <= 1000:
                raise ValueError(
                    f'the factor of "{pattern}" is {factor:g}; it must be above 0 and at most 1000 (what shall not train is '
                    "frozen by the detector's options or a phase's train:)"
                )
        return factors

    @model_serializer(mode="wrap")
    def _effective(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What has an effect, so that a dumped part can be read again."""
        return {key: value for key, value in inner(self).items() if not (self.name != "sgd" and key == "momentum")}

    @model_validator(mode="after")
    def _own_keys(self) -> Optimizer:
        if self.name != "sgd" and "momentum" in self.model_fields_set:
            raise ValueError(f"momentum has no effect on {self.name}; leave it out, or write name: sgd")
        return self


class Schedule(Strict):
    """Learning rate over time, in fractions of the run or absolute steps."""

    name: Literal["constant", "step", "cosine", "one_cycle", "linear"] = "step"
    warmup: int = Field(default=0, ge=0, le=MAX_STEPS, description="steps of linear warm-up")
    warmup_factor: float = Field(default=0.001, ge=0, le=1)
    milestones: tuple[Annotated[float, Field(gt=0, le=MAX_STEPS)], ...] = Field(
        default=(0.667, 0.917), min_length=1, description="where lr drops (step): fractions of the run, or steps above 1"
    )
    factor: float = Field(default=0.1, gt=0, lt=1, description="drop at each milestone (step)")
    final_factor: float = Field(
        default=0.0, ge=0, le=1, description="last lr as a fraction of the first (cosine, linear, one_cycle)"
    )

    @model_serializer(mode="wrap")
    def _effective(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What has an effect, so that a dumped part can be read again."""
        unread = {key for key, names in _READ_BY.items() if self.name not in names}
        if not self.warmup and self.name != "one_cycle":
            unread.add("warmup_factor")
        return {key: value for key, value in inner(self).items() if key not in unread}

    @model_validator(mode="after")
    def _own_keys(self) -> Schedule:
        written = self.model_fields_set
        for key, names in _READ_BY.items():
            if key in written and self.name not in names:
                raise ValueError(f"{key} has no effect on {self.name}; leave it out, or write name: {' or '.join(names)}")
        if "warmup_factor" in written and not self.warmup and self.name != "one_cycle":
            raise ValueError("warmup_factor has no effect without warmup:, the steps that it is for")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError("milestones must rise from one to the next")
        return self


_READ_BY = {
    "milestones": ("step",),
    "factor": ("step",),
    "final_factor": ("cosine", "linear", "one_cycle"),
}
"""Keys that some schedules alone read."""


class Recipe(Strict):
    """How a detector is trained. Length is ``steps`` or ``epochs``, not both."""

    steps: int | None = Field(default=None, gt=0, le=MAX_STEPS)
    epochs: float | None = Field(default=None, gt=0, le=1_000_000)
    batch: int = Field(default=2, gt=0, le=65_536, description="images per device and optimizer step, before accumulation")
    accumulate: int = Field(default=1, gt=0, le=65_536, description="batches per optimizer step")
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    clip_norm: float | None = Field(default=None, gt=0, le=1e9, description="largest gradient norm")
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = Field(default=False, description="torch.compile of dense stages, operations and terms")
    channels_last: bool = Field(default=False, description="maps with channels innermost, as tensor cores like them")
    fast: bool = Field(
        default=False,
        description="as fast as losses equal up to rounding allow: frozen teachers as programs, channels innermost; on a GPU "
        "also CUDA graphs, torch.compile and a fused optimizer",
    )
    ema: float | None = Field(default=None, gt=0, lt=1, description="decay of the student's moving average")
    norms: Literal["train", "frozen", "sync"] = Field(default="train", description="the student's BatchNorm layers")
    checkpoint_every: int = Field(default=500, gt=0, le=MAX_STEPS, description="steps")
    evaluate_every: int | None = Field(default=None, gt=0, le=MAX_STEPS, description="steps; none evaluates at the end only")
    log_every: int = Field(default=20, gt=0, le=MAX_STEPS, description="steps")

    @property
    def innermost(self) -> bool:
        """True where maps have their channels innermost."""
        return self.channels_last or self.fast

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
        default=None, gt=0, le=MAX_SIDE, description="input size of this teacher where it differs from the student's"
    )


class Evaluation(Strict):
    """What counts as the result."""

    metric: Literal["AP", "AP50", "voc_ap50"] = Field(
        default="AP", description="chooses the best checkpoint (validation)"
    )
    max_detections: int = Field(
        default=100, gt=0, le=10_000, description="best-scored detections counted per image and class"
    )
    batch: int | None = Field(default=None, gt=0, le=65_536, description="images per evaluation batch; none: the recipe's")


class Floor(Strict):
    """The plain student's AP50 below which the bench is broken, measured over several seeds."""

    AP50: float = Field(gt=0, le=100, description="percent")
    seeds: int = Field(gt=0)
    measured: str = Field(description="date of the measurement")


class Bench(Strict):
    """One bench file."""

    kdflow: Literal[1]
    bench: str = Field(pattern=SLUG, max_length=100)
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
