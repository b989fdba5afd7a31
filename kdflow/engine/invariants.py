"""What must hold while a run trains; what does not, stops it by name (:class:`~kdflow.errors.InvariantError`)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdflow.engine import ranks
from kdflow.engine.norms import batch_norms
from kdflow.engine.protocols import Metrics, Outcome
from kdflow.errors import InvariantError

FELT = 2.0**-24
"""Share of the total below which adding a term changes no bit of a single-precision sum."""

LIFE_LIMIT = 20
"""Steps with a non-empty group within which a distillation term must have lived."""

CHANCE_AP50 = 1.0
"""AP50 in percent that a detector without knowledge does not reach."""


class FiniteWatch:
    """Every term is finite. Steps only mark a tensor on the device; :meth:`check` reads it."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._first_bad: Tensor | None = None

    def see(self, names: Sequence[str], values: Tensor, step: int) -> None:
        """Note which of ``values`` are not finite at ``step``; a name is a term's, with or without a word in front."""
        if self._first_bad is None or tuple(names) != self._names:
            self.check()
            self._names = tuple(names)
            self._first_bad = torch.full((len(names),), -1, dtype=torch.int64, device=values.device)
        newly = ~torch.isfinite(values) & (self._first_bad < 0)
        self._first_bad = torch.where(newly, step, self._first_bad)

    def check(self) -> None:
        """Raise InvariantError naming the first term that was not finite, and its step."""
        if self._first_bad is None:
            return
        steps = ranks.largest(self._first_bad).tolist()
        bad = [(step, order) for order, step in enumerate(steps) if step >= 0]
        if bad:
            step, order = min(bad)
            raise InvariantError(
                self._names[order].rpartition(" ")[2],
                f"not finite at step {step + 1}; nothing after the last checkpoint was kept. Lower the learning rate or "
                "the term's weight, clip the gradient, or train in fp32",
            )


@dataclass
class _Judged:
    steps: int = 0
    nonzero: bool = False
    felt: bool = False


class LifeWatch:
    """Every distillation term lives.

    Within 20 steps in which it counts and its groups are not empty, its value was not zero, what it added to the loss after
    divisor, weight and schedule was enough to be felt there, and its gradient reached what it has to. A term is looked at until
    it has lived once and never again; each look synchronises with the device.

    Args:
        terms: Names of the terms to watch.
        limit: Steps with a non-empty group.
        auxiliary: Those of them that are not for the student: any parameter that trains will do.
    """

    def __init__(self, terms: Iterable[str], limit: int = LIFE_LIMIT, auxiliary: Iterable[str] = ()) -> None:
        self.limit = limit
        self.auxiliary = frozenset(auxiliary)
        self._pending = {name: _Judged() for name in terms}

    @property
    def unproven(self) -> tuple[str, ...]:
        """Terms that have not lived so far."""
        return tuple(self._pending)

    def judge(
        self,
        outcome: Outcome,
        student: Sequence[nn.Parameter],
        everything: Sequence[nn.Parameter] = (),
        scale: float = 1.0,
        resting: Collection[str] = (),
    ) -> None:
        """Look at the pending terms of one pass, before its backward.

        Args:
            outcome: The pass.
            student: Parameters of the student that train.
            everything: All parameters that train, for the auxiliary terms.
            scale: Factor on the value, so that a small gradient does not vanish in fp16.
            resting: Terms whose weight is 0 at this step, by schedule or phase; they are judged once they count.

        Raises:
            InvariantError: A term has not lived within the limit.
        """
        if all(name in resting for name in self._pending):
            return
        empty = outcome.empty  # reading it waits for the device
        for name in [n for n in self._pending if n in outcome.raw and n not in empty and n not in resting]:
            judged, value = self._pending[name], outcome.raw[name]
            judged.steps += 1
            nonzero = bool((value.detach() != 0).item())
            judged.nonzero |= nonzero
            felt = nonzero and _is_felt(outcome, name)
            judged.felt |= felt
            if felt and _reaches(value * scale, everything if name in self.auxiliary else student):
                del self._pending[name]
            elif judged.steps >= self.limit:
                raise InvariantError(name, self._verdict(judged, "anything" if name in self.auxiliary else "the student"))

    def _verdict(self, judged: _Judged, whom: str) -> str:
        if judged.nonzero and not judged.felt:
            return (
                f"what it added to the loss in {judged.steps} steps was 0, or too small to change the sum; lower the floor or "
                "the divisor of its reduce:, or raise its weight"
            )
        if judged.nonzero:
            hint = "teacher-only input" if whom == "the student" else "frozen input, and at the phase's train:"
            return (
                f"in {judged.steps} steps no gradient of this term reached {whom}{' that trains' * (whom == 'anything')}; "
                f"look for a detached or {hint} (kdflow explain shows the graph)"
            )
        return (
            f"its unscheduled value was 0 in {judged.steps} steps with a non-empty group; check that student and teacher "
            "are different tensors, and the term's masks, rows and factors"
        )

    def state_dict(self) -> dict[str, list[int]]:
        """Pending terms with what was seen of them."""
        return {name: [j.steps, int(j.nonzero), int(j.felt)] for name, j in self._pending.items()}

    def load_state_dict(self, state: Mapping[str, Sequence[int]]) -> None:
        """Continue from a saved state."""
        self._pending = {name: _Judged(steps, *map(bool, seen)) for name, (steps, *seen) in state.items()}


def _is_felt(outcome: Outcome, name: str) -> bool:
    """True when the term's share is large enough to change the total."""
    if name not in outcome.weighted:
        return True
    share, total = outcome.weighted[name].detach().abs(), outcome.total.detach().abs()
    return bool(((share > 0) & ~(share < FELT * total)).item())


def _reaches(value: Tensor, parameters: Sequence[nn.Parameter]) -> bool:
    if not value.requires_grad or not parameters:
        return False
    gradients = torch.autograd.grad(value, list(parameters), retain_graph=True, allow_unused=True)
    found = [g.ne(0).any() for g in gradients if g is not None]
    return bool(torch.stack(found).any().item()) if found else False


class TeacherWatch:
    """Teachers are in evaluation mode, frozen, unchanged bit for bit, and not in the optimizer.

    Of a teacher that a phase trains on purpose, only the parameters which the phase does not name are held to this.

    Args:
        teachers: Teachers by owner name.
        optimizer: The optimizer of the present phase.
        trained: Parameters that train on purpose in this phase.

    Attributes:
        learning: Teachers that train in this phase.
    """

    def __init__(
        self, teachers: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, trained: Iterable[nn.Parameter] = ()
    ) -> None:
        self._trained = {id(p) for p in trained}
        self._teachers = dict(teachers)
        self.learning = frozenset(name for name, teacher in teachers.items() if any(map(self._trains, teacher.parameters())))
        self._refuse_in(optimizer)
        self._before = {name: self._state(name, buffers_only=False) for name in self._teachers}
        self.check()

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence per teacher for the log."""
        return tuple(self._note(name, teacher) for name, teacher in self._teachers.items())

    def _note(self, name: str, teacher: nn.Module) -> str:
        if name in self.learning:
            count = sum(p.numel() for p in teacher.parameters() if self._trains(p))
            return f"{name}: {count:,} parameters train in this phase"
        return (
            f"{name}: in evaluation mode, {sum(p.numel() for p in teacher.parameters()):,} parameters frozen, "
            f"{len(batch_norms(teacher))} BatchNorm layers watched"
        )

    def check(self, thorough: bool = False) -> None:
        """Raise InvariantError naming the module, parameter or buffer that broke the promise.

        Args:
            thorough: Compare the weights too, not only the buffers (BatchNorm statistics).
        """
        for owner, teacher in self._teachers.items():
            for name, module in teacher.named_modules() if owner not in self.learning else ():
                if module.training:
                    raise InvariantError(_path(owner, name), "a teacher is in training mode; its statistics would drift")
            for name, parameter in teacher.named_parameters():
                if parameter.requires_grad and not self._trains(parameter):
                    raise InvariantError(_path(owner, name), "a teacher's parameter requires gradient; it must be frozen")
            self._compare(owner, self._state(owner, buffers_only=not thorough))

    def _trains(self, parameter: nn.Parameter) -> bool:
        return id(parameter) in self._trained

    def _state(self, owner: str, buffers_only: bool) -> dict[str, Tensor]:
        """Checksums of what may not change: all of a teacher, or the parameters that a phase leaves out of its training."""
        teacher = self._teachers[owner]
        tensors: dict[str, Tensor] = dict(teacher.named_buffers()) if owner not in self.learning else {}
        if not buffers_only:
            tensors.update((name, p) for name, p in teacher.named_parameters() if not self._trains(p))
        return _checksums(tensors)

    def _compare(self, owner: str, now: Mapping[str, Tensor]) -> None:
        if not now:
            return
        before = torch.stack([self._before[owner][name] for name in now])
        changed = (before != torch.stack(list(now.values()))).tolist()
        culprits = [name for name, different in zip(now, changed, strict=True) if different]
        if culprits:
            raise InvariantError(
                _path(owner, culprits[0]),
                f"the teacher changed during training ({len(culprits)} of {len(now)} tensors); it must stay as loaded",
            )

    def _refuse_in(self, optimizer: torch.optim.Optimizer) -> None:
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for owner, teacher in self._teachers.items():
            for name, parameter in teacher.named_parameters():
                if id(parameter) in trained and not self._trains(parameter):
                    raise InvariantError(_path(owner, name), "a teacher's parameter is in the optimizer")


def _path(owner: str, name: str) -> str:
    return f"{owner}.{name}" if name else owner


_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def _checksums(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sum of each tensor's bit patterns: exact, and the same in whatever order a device adds."""
    return {
        name: t.detach().contiguous().view(_BITS[t.element_size()]).sum(dtype=torch.int64)
        for name, t in tensors.items()
        if t.element_size() in _BITS
    }


def require_teacher(metrics: Metrics, name: str = "teacher", chance: float = CHANCE_AP50) -> None:
    """Refuse a teacher that is no better than chance.

    Args:
        metrics: Its evaluation on the bench's data, AP in percent.
        name: Owner name, for the message.
        chance: AP50 that must be exceeded.

    Raises:
        InvariantError: AP50 is missing, not a number, or not above ``chance``.
    """
    found = metrics.get("AP50", float("nan"))
    if not found > chance:
        raise InvariantError(
            name,
            f"AP50 {found:.2f} % on this bench's data is no better than chance, so there is nothing to learn from it. "
            "Check its weights, its class names and their order, and its input size",
        )
