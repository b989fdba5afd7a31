"""Properties of PAD."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdflow.graph.compile import compile_given
from kdflow.ops.losses.uncertain_squared_error import uncertain_squared_error
from kdflow.spec.resolve import parse_method
from kdflow.spec.schedule import Progress
from tests.methods.shipped import SPECS, maps, plan_of, terms_of

SHAPE = (6, 4, 3, 3)
EPS = 1e-6


def values(log_variance: Tensor | None = None, seed: int = 1) -> dict[str, Any]:
    (ours,), (theirs,) = maps(SHAPE, grad=True), maps(SHAPE, seed=seed)
    given = {"ours": ours, "theirs": theirs}
    return given if log_variance is None else {**given, "mimic_variance": log_variance}


def terms(given: dict[str, Any], *names: str) -> list[Tensor]:
    return terms_of(plan_of("pad", given, drop=("nodes.aligned",)), *names)


def test_a_log_variance_of_zero_gives_the_base_loss() -> None:
    plain, certain = terms(values(torch.zeros(SHAPE)), "mimic", "mimic_certain")
    torch.testing.assert_close(certain, plain, rtol=1e-5, atol=0)


def test_the_least_value_for_an_error_is_at_its_own_log_square() -> None:
    error = torch.tensor([0.1, 1.0, 3.0])
    at = uncertain_squared_error(error, torch.zeros(3), error.square().log(), 0)
    torch.testing.assert_close(at, 1 + error.square().log())
    for step in (-0.1, 0.1):
        assert (uncertain_squared_error(error, torch.zeros(3), error.square().log() + step, 0) > at).all()


def test_equality_leaves_the_mean_log_variance_and_no_gradient() -> None:
    (variance,) = maps(SHAPE, seed=2)
    given = values(variance)
    given["theirs"] = given["ours"].detach().clone()
    (certain,) = terms(given, "mimic_certain")
    torch.testing.assert_close(certain, variance.mean() / 2)
    assert not torch.autograd.grad(certain, given["ours"])[0].any()


def test_a_constant_more_changes_the_value_as_written() -> None:
    (variance,) = maps(SHAPE, seed=2)
    given, step = values(variance), 0.7
    (before,), (after,) = terms(given, "mimic_certain"), terms(given | {"mimic_variance": variance + step}, "mimic_certain")
    explained = ((given["ours"] - given["theirs"]).square() * (-variance).exp()).mean()
    wanted = step + (torch.tensor(-step).exp() - 1) * explained
    torch.testing.assert_close(2 * (after - before), wanted, rtol=1e-4, atol=1e-5)


def test_gradient_of_the_log_variance() -> None:
    variance = maps(SHAPE, seed=2)[0].requires_grad_()
    given = values(variance)
    (certain,) = terms(given, "mimic_certain")
    error = (given["ours"] - given["theirs"]).square()
    wanted = (1 - error * (-variance).exp()) / (2 * variance.numel())
    torch.testing.assert_close(torch.autograd.grad(certain, variance)[0], wanted.detach(), rtol=1e-4, atol=1e-6)


def test_student_and_branch_receive_gradient_and_the_teacher_none() -> None:
    given = values()
    given["theirs"].requires_grad_()
    plan = plan_of("pad", given, drop=("nodes.aligned",))
    (certain,) = terms_of(plan, "mimic_certain")
    branch = dict(plan.ops.named_parameters())
    assert set(branch) == {f"mimic_variance.{layer}.{w}" for layer in ("linear", "bn") for w in ("weight", "bias")}
    grads = torch.autograd.grad(certain, [given["ours"], *branch.values()])
    assert all(torch.isfinite(grad).all() and grad.any() for grad in grads[:2])


def test_the_plain_loss_leads_and_the_weighted_one_follows() -> None:
    plan = plan_of("pad", values(), drop=("nodes.aligned",))
    schedules = {term.name: term.schedule for term in plan.terms}
    for step, wanted in ((0, (1, 0)), (49, (1, 0)), (50, (0, 1)), (99, (0, 1))):
        at = Progress(step, 100, 10)
        assert (schedules["kd/mimic"].factor(at), schedules["kd/mimic_certain"].factor(at)) == wanted


@pytest.mark.parametrize(
    ("base", "term", "given"),
    [("fitnet", "hint", {}), ("fgfi", "neck", {"region": [torch.eye(2, 80), torch.zeros(2, 20)]})],
)
def test_the_rules_fit_other_methods_and_keep_their_masks_and_divisors(base: str, term: str, given: Any) -> None:
    shapes = ((2, 4, 8, 10), (2, 4, 4, 5))
    zeros = [torch.zeros(shape) for shape in shapes]
    necks = {"student.neck": maps(*shapes), "teacher.neck": maps(*shapes, seed=1)}
    find = {path.stem: path for path in Path(SPECS).glob("*.yaml")}.__getitem__
    spec = parse_method(f"kdflow: 1\nmethod: both\nwraps: {base}\nrewrite: pad\n", "both.yaml", find)
    plan = compile_given(spec.resolve(), spec.document, {**necks, **given, f"{term}_variance": zeros})
    plain, certain = terms_of(plan, term, f"{term}_certain")
    torch.testing.assert_close(certain, plain, rtol=1e-5, atol=0)
    assert plain > 0
