"""The same distillation through torchdistill 1.1.5: its box, its hooks, its loss sum; the formulas are those of hand.py.

Adapters sit in an auxiliary wrapper of the student, and one middle-level loss holds the method's formulas. That is its cheapest
form: nothing is declared twice, and no feature is looked up more than once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

VERSION = "1.1.5"


def missing() -> str | None:
    """Why torchdistill cannot take part; None when it can."""
    try:
        import torchdistill
        import torchdistill.core.distillation
    except Exception as error:  # whatever a foreign package does at import, the others are measured
        return f"torchdistill does not import ({type(error).__name__}: {error}); pip install torchdistill=={VERSION}"
    found = getattr(torchdistill, "__version__", "?")
    return None if found == VERSION else f"torchdistill {found} is installed, the comparison is with {VERSION}"


def register() -> tuple[str, str]:
    """Register wrapper and loss as torchdistill's documentation asks; returns their keys."""
    from torchdistill.losses.registry import register_mid_level_loss
    from torchdistill.models.registry import register_auxiliary_model_wrapper
    from torchdistill.models.wrapper import AuxiliaryModelWrapper

    @register_auxiliary_model_wrapper(key="BenchmarkStudent")
    class Student(AuxiliaryModelWrapper):  # type: ignore[misc]
        def __init__(self, student_model: nn.Module, terms: nn.Module, **_: Any) -> None:
            super().__init__()
            self.detector, self.terms = student_model, terms

        def forward(self, *args: Any) -> Any:
            return self.detector(*args)

        def secondary_forward(self, *args: Any, **kwargs: Any) -> None:
            """The loss applies the adapters."""

    @register_mid_level_loss(key="BenchmarkTerms")
    class Terms(nn.Module):
        def __init__(self, holder: Any) -> None:
            super().__init__()
            self.holder = holder

        def forward(self, student: Any, teacher: Any, targets: Any) -> Tensor:
            return self.holder.total(student["detector.backbone"]["output"], teacher["backbone"]["output"], targets)

    return "BenchmarkStudent", "BenchmarkTerms"


class Torchdistill:
    """One distillation box.

    Args:
        student: Detector that trains.
        teacher: Detector that is left in the mode it is in.
        terms: Formulas with their adapters.
        optimizer: ``{key, kwargs}`` of torchdistill's optimizer registry.
        autocast: Type of reduced precision, or None.
    """

    def __init__(self, student: Any, teacher: Any, terms: nn.Module, *, optimizer: Any, autocast: Any = None) -> None:
        from torchdistill.core.distillation import get_distillation_box

        wrapper, loss = register()
        self.terms, self.autocast, self.sizes = terms, autocast, []
        self.last: dict[str, Tensor] = {}
        device = next(student.parameters()).device
        self.device = device.type
        config = {
            "num_epochs": 1,
            "teacher": {"requires_grad": False, **_forward(["backbone"])},
            "student": {
                "auxiliary_model_wrapper": {"key": wrapper, "kwargs": {"terms": terms}}, **_forward(["detector.backbone"])
            },
            "optimizer": optimizer,
            "criterion": {
                "key": "WeightedSumLoss",
                "kwargs": {
                    "model_term": {"weight": 1.0},
                    "sub_terms": {"terms": {"criterion": {"key": loss, "kwargs": {"holder": self}}, "weight": 1.0}},
                },
                "func2extract_model_loss": "extract_model_loss_dict",
            },
        }
        self.box = get_distillation_box(teacher, student, {}, config, device, None, False, 1)
        self.box.pre_epoch_process(epoch=0)
        self.parameters = [p for group in self.box.optimizer.param_groups for p in group["params"]]
        self.optimizer = self.box.optimizer

    def total(self, ours: Any, theirs: Any, targets: Any) -> Tensor:
        """Sum of the method's weighted terms, called by the box's criterion."""
        boxes = [t["boxes"] for t in targets]
        self.last = self.terms(list(ours.values()), list(theirs.values()), boxes, self.sizes)
        return sum(self.last.values())  # type: ignore[return-value]

    def forward(self, batch: Any) -> Tensor:
        """The box's loss."""
        self.sizes = batch.sizes
        with torch.autocast(self.device, self.autocast, enabled=self.autocast is not None):
            return self.box.forward_process(batch.images, batch.targets, None)

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """The method's terms, and what the detector adds in one number.

        A teacher in training mode draws samples of its own before the student does; for this comparison, and never while timing,
        the generator is set back behind it.
        """
        handle = self.box.teacher_model.register_forward_hook(lambda *_: _reseed())
        try:
            total = self.forward(batch)
        finally:
            handle.remove()
        return {"det": total - sum(self.last.values()), **self.last}

    def step(self, batch: Any) -> None:
        """One step as in torchdistill's examples."""
        self.box.pre_forward_process()
        self.box.post_forward_process(loss=self.forward(batch))


def _reseed() -> None:
    torch.manual_seed(torch.initial_seed())


def _forward(paths: list[str]) -> dict[str, Any]:
    return {"forward_proc": "forward_batch_target", "forward_hook": {"input": [], "output": paths}}
