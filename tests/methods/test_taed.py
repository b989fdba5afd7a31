"""Properties of TAED."""

from __future__ import annotations

import torch
from torch import Tensor

from kdflow.functional.attention import channel_attention, spatial_attention
from kdflow.graph.plan import Plan
from tests.methods.shipped import maps, plan_of, terms_of

SHAPES = ((2, 4, 8, 10), (2, 4, 4, 5), (2, 4, 1, 3))
IDENTITY = {"nodes.aligned.init": "identity", "nodes.context_view.init": "identity"}


def plan(student: list[Tensor], teacher: list[Tensor], **options: object) -> Plan:
    return plan_of("taed", {"student.neck": student, "teacher.neck": teacher}, **options)  # type: ignore[arg-type]


def test_a_fresh_block_passes_maps_on_so_the_context_term_is_the_distance_of_the_maps() -> None:
    ours, theirs = maps(*SHAPES), maps(*SHAPES, seed=1)
    (value,) = terms_of(plan(ours, theirs, changes=IDENTITY), "nonlocal")
    wanted = torch.stack([(a - b).norm() for a, b in zip(ours, theirs, strict=True)]).sum()
    torch.testing.assert_close(value, wanted)


def test_equal_maps_give_zero_with_a_finite_gradient() -> None:
    ours = maps(*SHAPES, grad=True)
    feature, context = terms_of(plan(ours, maps(*SHAPES), changes=IDENTITY), "feature", "nonlocal")
    assert not feature.detach()
    assert not context.detach()
    grads = torch.autograd.grad(feature + context, ours)
    assert all(torch.isfinite(g).all() and not g.any() for g in grads)


def test_masks_have_mean_one() -> None:
    (features,) = maps(SHAPES[0])
    torch.testing.assert_close(spatial_attention(features, 0.5).mean((2, 3)), torch.ones(2, 1))
    torch.testing.assert_close(channel_attention(features, 0.1).mean(1), torch.ones(2))


def test_the_feature_term_is_a_norm_in_the_difference() -> None:
    ours, theirs = maps(*SHAPES), maps(*SHAPES, seed=1)
    masks = {"places": [spatial_attention(m, 0.5) for m in theirs]}

    def value(scale: float) -> Tensor:
        away = [t + scale * (s - t) for s, t in zip(ours, theirs, strict=True)]
        given = {"student.neck": away, "teacher.neck": theirs, **masks}
        return terms_of(plan_of("taed", given, changes=IDENTITY), "feature")[0]

    torch.testing.assert_close(value(3.0), 3 * value(1.0))


def test_a_repeated_batch_multiplies_norms_by_root_two_and_the_order_of_images_does_not_matter() -> None:
    ours, theirs = maps(*SHAPES), maps(*SHAPES, seed=1)
    names = ("feature", "channel", "spatial", "nonlocal")
    once = torch.stack(terms_of(plan(ours, theirs), *names))
    twice = torch.stack(terms_of(plan([torch.cat([m, m]) for m in ours], [torch.cat([m, m]) for m in theirs]), *names))
    swapped = torch.stack(terms_of(plan([m.flip(0) for m in ours], [m.flip(0) for m in theirs]), *names))
    torch.testing.assert_close(twice, once * 2**0.5)
    torch.testing.assert_close(swapped, once)


def test_no_gradient_flows_through_the_masks() -> None:
    ours, theirs = maps(*SHAPES, grad=True), maps(*SHAPES, seed=1)
    live = plan(ours, theirs)
    frozen = [m.clone() for m in live.evaluate({}, ["places"])["places"]]
    constant = plan_of("taed", {"student.neck": ours, "teacher.neck": theirs, "places": frozen})
    grads = [torch.autograd.grad(terms_of(p, "feature")[0], ours) for p in (live, constant)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_one_stage_detectors_mask_by_channel_as_well() -> None:
    ours, theirs = maps(*SHAPES), maps(*SHAPES, seed=1)
    dense = plan(ours, theirs, family="dense", changes=IDENTITY)
    found = dense.evaluate({}, ["channels", "places", "kd/feature"])
    wanted = sum(
        ((s - t).square() * places * channels[:, :, None, None]).sum().sqrt()
        for s, t, places, channels in zip(ours, theirs, found["places"], found["channels"], strict=True)
    )
    torch.testing.assert_close(found["kd/feature"], wanted)
