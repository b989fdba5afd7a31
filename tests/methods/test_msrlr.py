"""Properties of MSRLR."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdflow.experiment.reading import read_method
from kdflow.experiment.setup import Setting, prepare
from kdflow.graph.plan import Plan
from kdflow.ports import Batch
from tests.methods.shipped import maps, plan_of

WIDTH = 8
SIZES = (8, 4, 2)
TEACHER_PARTS = (
    *(f"terms.teacher_{name}" for name in ("high", "low", "fused")),
    *(f"nodes.{name}" for name in ("our_half", "their_half", "on_high", "on_low", "of_high", "of_low")),
    *(f"nodes.{name}_loss" for name in ("high", "low", "fused")),
)


def pyramid(seed: int, grad: bool = False) -> list[Tensor]:
    return maps(*((2, WIDTH, side, side) for side in SIZES), seed=seed, grad=grad)


def plan(high: list[Tensor], low: list[Tensor], ours: list[Tensor], **changes: object) -> Plan:
    """The distilling part on given levels; the finest level of the high pyramid and the coarsest of the others are not read."""
    given = {
        "teacher.neck": [torch.zeros(2, WIDTH, 16, 16), *high],
        "low.neck": [*low, torch.zeros(2, WIDTH, 1, 1)],
        "student.neck": [*ours, torch.zeros(2, WIDTH, 1, 1)],
    }
    return plan_of("msrlr", given, family="dense", changes={"nodes.fused.reduction": 4, **changes}, drop=TEACHER_PARTS)


def fused(built: Plan) -> dict[str, list[Tensor]]:
    return built.evaluate({}, ["fused"])["fused"]


def distill(built: Plan) -> Tensor:
    return built.evaluate({}, ["kd/distill"])["kd/distill"]


def test_gates_are_positive_and_sum_to_one() -> None:
    for gates in fused(plan(pyramid(0), pyramid(1), pyramid(2)))["gates"]:
        assert (gates > 0).all()
        torch.testing.assert_close(gates.sum(1), torch.ones(2))


def test_swapping_the_maps_swaps_the_gates_under_symmetric_weights() -> None:
    one, other = plan(pyramid(0), pyramid(1), pyramid(2)), plan(pyramid(1), pyramid(0), pyramid(2))
    for built in (one, other):
        with torch.no_grad():
            weights = dict(built.ops.named_parameters())
            own = weights["fused.squeeze.weight"][:2, :WIDTH].clone()
            swapped = torch.cat([torch.cat([own, -own], 1), torch.cat([-own, own], 1)])
            weights["fused.squeeze.weight"].copy_(swapped)
            weights["fused.judge.weight"].copy_(torch.tensor([[1.0, 2.0, -3.0, 0.5], [-3.0, 0.5, 1.0, 2.0]]))
    for gates, others in zip(fused(one)["gates"], fused(other)["gates"], strict=True):
        torch.testing.assert_close(gates, others.flip(1))
        assert not torch.allclose(gates, others)


def test_equal_maps_fuse_to_themselves() -> None:
    same = pyramid(0)
    for result, level in zip(fused(plan(same, same, pyramid(2)))["maps"], same, strict=True):
        torch.testing.assert_close(result, level)


def test_the_fusion_learns_in_the_teachers_phase_and_is_a_constant_in_the_students() -> None:
    high, low = pyramid(0, grad=True), pyramid(1, grad=True)
    ours = pyramid(2, grad=True)
    built = plan(high, low, ours)
    weights = list(built.ops.parameters())
    found = torch.autograd.grad(distill(built), [*ours, *high, *low, *weights], allow_unused=True)
    assert all(grad is not None and grad.any() for grad in found[: len(ours)])
    assert all(grad is None for grad in found[len(ours) :])
    probe = sum(level.square().mean() for level in fused(built)["maps"])
    assert all(grad.any() for grad in torch.autograd.grad(probe, [*high, *low, *weights]))


def test_equal_features_cost_nothing() -> None:
    same = pyramid(0)
    torch.testing.assert_close(distill(plan(same, same, same)), torch.zeros(()), atol=1e-6, rtol=0)


def test_the_weight_grows_linearly_over_500_steps_of_the_students_phase() -> None:
    built = plan(pyramid(0), pyramid(1), pyramid(2))
    raw = {"kd/distill": distill(built)}
    for step, share in ((0, 0.0), (5000, 0.0), (5125, 0.25), (5500, 1.0), (9999, 1.0)):
        built.advance(step, 10_000, 100)
        torch.testing.assert_close(built.weigh(raw)["kd/distill"], 0.6 * share * raw["kd/distill"])


def test_the_term_scales_with_the_features_and_tau_is_no_parameter_of_its_own() -> None:
    high, low, ours = pyramid(0), pyramid(1), pyramid(2)
    built = plan(high, low, ours)
    goal, value = [level.detach() for level in fused(built)["maps"]], distill(built)
    torch.testing.assert_close(value, sum((s - t).abs().mean() for s, t in zip(ours, goal, strict=True)))
    doubled = [[-2 * level for level in levels] for levels in (goal, goal, ours)]
    torch.testing.assert_close(distill(plan(*doubled)), 2 * value)
    for tau in (1.0, 3.0, 10.0):  # alpha * tau is held at 0.6
        written = 0.6 / tau * tau**2 * sum((s / tau - t / tau).abs().mean() for s, t in zip(ours, goal, strict=True))
        torch.testing.assert_close(0.6 * value, written)


@pytest.fixture(scope="module")
def setting() -> Setting:
    small = {f"{owner}.backbone": "timm:test_resnet" for owner in ("student", "teacher")}
    return prepare(read_method("msrlr"), overrides=small)


def batch(height: int, width: int) -> Batch:
    torch.manual_seed(3)
    box = torch.tensor([[10.0, 20.0, 90.0, 100.0]])
    return Batch(torch.rand(2, 3, height, width), [(height, width)] * 2, [box, box], [torch.tensor([1])] * 2)


@pytest.mark.parametrize(("height", "width"), [(256, 256), (256, 512), (128, 384)])
def test_levels_of_both_resolutions_agree(setting: Setting, height: int, width: int) -> None:
    assert all(d.size_divisor == 128 for d in setting.detectors.values())
    setting.plan.eval()
    with torch.no_grad():
        found = setting.plan.evaluate(batch(height, width), ["teacher.neck[1:]", "low.neck[:-1]", "student.neck[:-1]"])
    shapes = [[tuple(level.shape[-2:]) for level in levels] for levels in found.values()]
    assert shapes[0] == shapes[1] == shapes[2] == [(height >> k, width >> k) for k in range(3, 8)]


def test_places_lie_on_the_full_image_in_every_branch(setting: Setting) -> None:
    names = [node.name for node in setting.plan.graph.ordered() if node.stage == "head.priors"]
    setting.plan.eval()
    found = setting.plan.evaluate(batch(256, 256), [f"{owner}.head.priors" for owner in ("student", "teacher")])
    assert len(names) >= 2
    for priors in found.values():
        sides = [float(p[0, 2] - p[0, 0]) for p in priors]
        steps = [float(p[1, 0] - p[0, 0]) for p in priors if len(p) > 1]
        assert sides == steps == [8.0, 16.0, 32.0, 64.0, 128.0]


def test_the_student_begins_as_the_teachers_low_branch(setting: Setting) -> None:
    plan, data = setting.plan, batch(128, 128)
    plan.begin("student")
    plan.eval()
    with torch.no_grad():
        names = ["student.neck", "low.neck", "student.head.logits", "on_low.logits"]
        ours, theirs, our_logits, their_logits = plan.evaluate(data, names).values()
    for one, other in ((ours, theirs), (our_logits, their_logits)):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    whole = setting.detectors["student"].predict(data.images, data.image_sizes)
    half = plan.predictor().predict(data.images, data.image_sizes)
    assert not all(torch.equal(a["scores"], b["scores"]) for a, b in zip(whole, half))


def test_the_phases_train_the_teacher_with_its_fusion_and_then_the_student(setting: Setting) -> None:
    plan = setting.plan
    plan.thaw()
    first, second = setting.method.phases
    names = [name for name, p in plan.named_parameters() if p.requires_grad]
    teacher = {name for name in names if first.trains(name)}
    student = {name for name in names if second.trains(name)}
    assert teacher == {name for name in names if name.startswith(("teacher.", "ops.fused."))}
    left_out = {name for name in names if name.startswith("student.")} - student
    assert left_out == {f"student.backbone.fpn.extra_blocks.p7.{part}" for part in ("weight", "bias")}
    assert not {name for name in student if not name.startswith("student.")}
    for phase, wanted, parts in ((first, teacher, "kd/teacher_"), (second, student, ("det/", "kd/distill"))):
        plan.enter(phase.name)
        plan.train()
        plan.advance(9, 12, 4)
        plan.zero_grad()
        for name, parameter in plan.named_parameters():
            parameter.requires_grad_(name in wanted)
        outcome = plan(batch(128, 128))
        assert all(name.startswith(parts) for name in outcome.raw)
        outcome.total.backward()
        assert {name for name, p in plan.named_parameters() if p.grad is not None} == wanted
