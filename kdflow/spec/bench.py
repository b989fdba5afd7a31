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
UNTRAINED = "untrained"
"""Weights of a teacher that has learned nothing: it keeps those it was built with, the same in every run."""


class Strict(BaseModel):
    """A document part: unknown keys are refused, values are not changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Augment(Strict):
    """One step of the augmentation of training pictures."""

    name: Literal["flip", "scale", "crop", "colour", "mosaic", "mixup"] = Field(
        description="flip left and right; scale the content in its frame; crop a part and enlarge it; colour of all pixels; "
        "mosaic of four pictures; mixup, the mean of two"
    )
    p: float = Field(default=0.5, gt=0, le=1, description="probability that the step is taken")
    low: float = Field(default=0.6, gt=0.05, le=1, description="least factor (scale)")
    high: float = Field(default=1.5, ge=1, le=20, description="largest factor (scale)")
    least: float = Field(default=0.4, gt=0, lt=1, description="shortest side as a share of the picture's (crop)")
    brightness: float = Field(default=0.2, ge=0, le=1, description="largest change, as a share (colour)")
    contrast: float = Field(default=0.2, ge=0, le=1, description="largest change, as a share (colour)")
    saturation: float = Field(default=0.2, ge=0, le=1, description="largest change, as a share (colour)")
    hue: float = Field(default=0.02, ge=0, le=0.5, description="largest turn, as a share of the colour circle (colour)")

    @model_serializer(mode="wrap")
    def _effective(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What has an effect, so that a dumped part can be read again."""
        return {key: value for key, value in inner(self).items() if key in self.keys}

    @property
    def keys(self) -> tuple[str, ...]:
        """What this kind of step reads."""
        own = {"scale": ("low", "high"), "crop": ("least",), "colour": ("brightness", "contrast", "saturation", "hue")}
        return ("name", "p", *own.get(self.name, ()))

    @model_validator(mode="after")
    def _own_keys(self) -> Augment:
        if foreign := sorted(self.model_fields_set - set(self.keys)):
            raise ValueError(f"{foreign[0]} has no effect on {self.name}; it reads {', '.join(self.keys[1:])}")
        return self


class DataSpec(BaseModel):
    """Which data, and how images reach the detectors.

    Keys beside these belong to the format and are checked by it (``root``, ``train``, ``images`` ...).
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    format: str = Field(description="shapes, coco, voc, yolo, huggingface, or a format added by a plugin")
    size: int = Field(default=800, gt=0, le=MAX_SIDE, description="shorter side of the resized image, pixels")
    max_size: int = Field(default=1333, gt=0, le=MAX_SIDE, description="longest allowed side, pixels")
    fixed: bool = Field(default=False, description="resize to exactly size x size (equal images, no padding)")
    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a horizontal flip in training")
    augment: tuple[Augment, ...] = Field(
        default=(), max_length=20, description="steps of augmentation in training, in this order; none: flip alone"
    )
    workers: int = Field(default=2, ge=0, le=256, description="loader processes")
    resident: bool = Field(default=False, description="keep decoded images in memory (small sets)")

    @model_serializer(mode="wrap")
    def _effective(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What has an effect, so that a dumped part can be read again."""
        unread = {"max_size"} if self.fixed else set()
        unread |= {"flip"} if self.augment else {"augment"}
        return {key: value for key, value in inner(self).items() if key not in unread}

    @model_validator(mode="after")
    def _sides_in_order(self) -> DataSpec:
        if self.fixed and "max_size" in self.model_fields_set:
            raise ValueError("max_size has no effect on images of a fixed size; leave one of the two out")
        if self.augment and "flip" in self.model_fields_set:
            raise ValueError("flip has no effect beside augment; write {name: flip, p: 0.5} as one of its steps")
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
        description="checkpoint file, library weight name, model folder, or untrained (a control: a teacher that has learned "
        "nothing); none starts from random or recipe",
    )
    weights_classes: Literal["coco80", "coco91"] | tuple[str, ...] | None = Field(
        default=None,
        description="for a file of weights that knows other classes than the data, or the same in another order: the names "
        "behind its rows; coco80, and coco91 with numbers that have no class, are COCO's. Rows of the data's classes are chosen",
    )

    weights_entry: str | None = Field(
        default=None,
        description="for a checkpoint with several state dicts: which one, its keys joined with dots (ema.module); without it "
        "the only one is taken, or of several the averaged one (ema)",
    )

    @model_validator(mode="after")
    def _rows_of_weights(self) -> DetectorSpec:
        if self.weights_classes is not None and self.weights is None:
            raise ValueError("weights_classes has no effect without weights:, whose rows it names")
        if self.weights_entry is not None and self.weights is None:
            raise ValueError("weights_entry has no effect without weights:, whose part it names")
        return self

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


class Calibrate(Strict):
    """Weights of a method that are set when a run begins, by how hard its terms pull at the student."""

    share: float = Field(
        default=0.5, gt=0, lt=1, description="what all terms together have of the gradient, the detector's losses included"
    )
    batches: int = Field(default=8, gt=0, le=100_000, description="batches, per process, that gradients are averaged over")


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
        description="as fast as losses equal up to rounding allow: frozen teachers as programs and one batch ahead, "
        "channels innermost; on a GPU also a stream of their own, CUDA graphs, torch.compile and a fused optimizer",
    )
    checkpoint_activations: bool = Field(
        default=False,
        description="repeated blocks of the student (residual blocks, transformer layers) keep their inputs alone and run again "
        "in the backward pass: less memory for more time, the same numbers",
    )
    ema: float | None = Field(default=None, gt=0, lt=1, description="decay of the student's moving average")
    norms: Literal["train", "frozen", "sync"] = Field(default="train", description="the student's BatchNorm layers")
    checkpoint_every: int = Field(default=500, gt=0, le=MAX_STEPS, description="steps")
    evaluate_every: int | None = Field(default=None, gt=0, le=MAX_STEPS, description="steps; none evaluates at the end only")
    log_every: int = Field(default=20, gt=0, le=MAX_STEPS, description="steps")
    calibrate: Calibrate | None = Field(
        default=None, description="true, or share: and batches: -- the method's weights keep their ratios and get a common factor"
    )

    @field_validator("calibrate", mode="before")
    @classmethod
    def _yes_or_no(cls, value: Any) -> Any:
        return (Calibrate() if value else None) if isinstance(value, bool) else value

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
        default=None,
        gt=0,
        le=MAX_SIDE,
        description="input size while its recipe trains it; it teaches, and is measured, at the size of the bench's data",
    )

    @field_validator("recipe")
    @classmethod
    def _nothing_to_calibrate(cls, recipe: Recipe | None) -> Recipe | None:
        if recipe is not None and recipe.calibrate is not None:
            raise ValueError("calibrate has no effect on a teacher, which has no terms; write it into the student's recipe")
        return recipe


class Evaluation(Strict):
    """What counts as the result."""

    metric: Literal["AP", "AP50", "voc_ap50"] = Field(
        default="AP", description="chooses the best checkpoint (validation)"
    )
    max_detections: int = Field(
        default=100, gt=0, le=10_000, description="best-scored detections counted per image and class"
    )
    batch: int | None = Field(default=None, gt=0, le=65_536, description="images per evaluation batch; none: the recipe's")
    evaluator: Literal["hotcoco", "pycocotools"] = Field(
        default="hotcoco", description="who counts; the numbers are equal, the reference pycocotools takes far longer"
    )


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
