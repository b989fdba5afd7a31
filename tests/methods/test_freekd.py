"""Properties of FreeKD."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdflow.errors import UsageError
from kdflow.graph.plan import Plan
from kdflow.ops.transforms.from_haar import from_haar
from kdflow.ops.transforms.haar import haar
from tests.methods.shipped import fill, maps, plan_of, terms_of

SHAPES = ((2, 4, 16, 8), (2, 4, 8, 8))
ODD = ((2, 4, 7, 5), (2, 4, 1, 3))
TASK = ("terms.task_classes", "terms.task_boxes", "terms.boxes", "nodes.heads", "nodes.judged", "nodes.masked", "nodes.low_1",
        "nodes.low_2", "nodes.masked_0", "nodes.masked_1", "nodes.masked_2", "nodes.masked_3")
BANDS = ("bands_1", "bands_2", "bands_3")


def plan(ours: list[Tensor], theirs: list[Tensor]) -> Plan:
    given = {"student.neck": ours, "teacher.neck": theirs}
    return plan_of("freekd", given, family="dense", changes={"nodes.aligned.init": "identity"}, drop=TASK)


@pytest.mark.parametrize("shapes", [SHAPES, ODD])
def test_equality_gives_zero(shapes: tuple[tuple[int, ...], ...]) -> None:
    values = terms_of(plan(maps(*shapes), maps(*shapes)), *BANDS, "maps")
    assert [float(value.detach()) for value in values] == [0, 0, 0, 0]


def test_a_constant_more_is_seen_by_the_maps_alone() -> None:
    theirs = maps(*SHAPES)
    *bands, whole = terms_of(plan([m + 0.5 for m in theirs], theirs), *BANDS, "maps")
    assert max(float(value.detach()) for value in bands) < 1e-6
    assert float(whole.detach()) == pytest.approx(0.25 * len(SHAPES), rel=1e-4)


def test_prompts_of_zero_show_half_of_everything() -> None:
    built = plan(maps(*SHAPES), maps(*SHAPES, seed=1))
    fill(built, "prompt_", 0.0)
    first = [(haar(s)["details"] - haar(t)["details"]).abs().mean() / 2 for s, t in zip(maps(*SHAPES), maps(*SHAPES, seed=1))]
    torch.testing.assert_close(terms_of(built, "bands_1")[0], torch.stack(first).sum())


def test_bands_keep_the_energy_and_lead_back_to_the_map() -> None:
    for features in maps(*SHAPES, *ODD):
        bands = haar(features)
        energy = bands["low"].square().sum() + bands["details"].square().sum()
        torch.testing.assert_close(energy, features.square().sum())
        torch.testing.assert_close(from_haar(bands["low"], bands["details"], features), features)


def test_the_student_learns_and_the_prompts_and_the_teacher_do_not() -> None:
    ours, theirs = maps(*SHAPES, grad=True), maps(*SHAPES, seed=1, grad=True)
    built = plan(ours, theirs)
    loss = torch.stack(terms_of(built, *BANDS)).sum()
    prompts = [p for n, p in built.ops.named_parameters() if n.startswith("prompt_") and not n.startswith("prompt_0")]
    assert all(grad.any() for grad in torch.autograd.grad(loss, ours, retain_graph=True))
    assert prompts
    trained = {name for phase in built_phases() for name in phase}
    assert trained == {"ops.prompt_*", "student.*", "ops.aligned.*"}


def built_phases() -> list[tuple[str, ...]]:
    from kdflow.spec.resolve import load_method
    from tests.methods.shipped import SPECS

    return [phase.train for phase in load_method(SPECS / "freekd.yaml", lambda name: SPECS / name).resolve({}, {}).phases]


def test_details_that_do_not_fit_are_refused() -> None:
    (low,) = maps((1, 2, 4, 4))
    with pytest.raises(UsageError, match="three times as many"):
        from_haar(low, low)
