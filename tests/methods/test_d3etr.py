"""Properties of D3ETR."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdflow.errors import UsageError
from kdflow.experiment.reading import read_method
from kdflow.experiment.setup import Setting, prepare
from kdflow.graph.plan import Plan
from kdflow.ops.losses.probability_kl import probability_kl
from kdflow.ops.matching.arrange import arrange
from kdflow.ports import Batch
from tests.methods.shipped import SPECS, plan_of, terms_of

ADAPTIVE = ("adaptive_classes", "adaptive_boxes", "adaptive_giou", "adaptive_self", "adaptive_cross")
FIXED = tuple(f"terms.{name.replace('adaptive', 'fixed')}" for name in ADAPTIVE)
GROUP_TWO = (*FIXED, "nodes.fixed", "nodes.fixed_places")


def decoder(seed: int, queries: int = 5) -> dict[str, list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)

    def layers(*shape: int) -> list[Tensor]:
        return [torch.randn(2, *shape, generator=generator) for _ in range(2)]

    return {
        "logits": layers(queries, 3), "boxes": [x.sigmoid() * 0.4 + 0.1 for x in layers(queries, 4)],
        "self_attention": [x.softmax(-1) for x in layers(2, queries, queries)],
        "cross_attention": [x.softmax(-1) for x in layers(2, queries, 7)],
    }


def plan(student: dict[str, list[Tensor]], teacher: dict[str, list[Tensor]]) -> Plan:
    given = {f"{owner}.decoder.{k}": v for owner, side in (("student", student), ("teacher", teacher)) for k, v in side.items()}
    return plan_of("d3etr", given | {"image_sizes": [(1, 1)] * 2}, family="transformer", drop=GROUP_TWO)


def permuted(side: dict[str, list[Tensor]], order: Tensor) -> dict[str, list[Tensor]]:
    moved = {k: [x[:, order] for x in v] for k, v in side.items() if k in ("logits", "boxes")}
    moved["self_attention"] = [x[:, :, order][..., order] for x in side["self_attention"]]
    return moved | {"cross_attention": [x[:, :, order] for x in side["cross_attention"]]}


def test_equal_models_pair_each_query_with_itself_and_leave_the_entropy_of_scores() -> None:
    both = decoder(0)
    built = plan(both, both)
    pairs = built.evaluate({}, ["pairs"])["pairs"]
    assert all(torch.equal(ours, theirs) for layer in pairs for ours, theirs in layer)
    classes, *others = terms_of(built, *ADAPTIVE)
    assert all(value.abs() < 1e-6 for value in others)
    chances = [x.sigmoid() for x in both["logits"]]
    entropy = sum(-(p * p.log() + (1 - p) * (1 - p).log()).sum(-1).mean() for p in chances)
    torch.testing.assert_close(classes, entropy)


def test_the_order_of_the_students_queries_does_not_matter() -> None:
    ours, theirs, order = decoder(0), decoder(1), torch.tensor([3, 0, 4, 1, 2])
    for before, after in zip(terms_of(plan(ours, theirs), *ADAPTIVE), terms_of(plan(permuted(ours, order), theirs), *ADAPTIVE)):
        torch.testing.assert_close(before, after)


def test_heads_are_compared_one_by_one() -> None:
    def turned(side: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
        return {k: [x.flip(1) if "attention" in k else x for x in v] for k, v in side.items()}

    ours, theirs = decoder(0), decoder(1)
    names = ADAPTIVE[3:]
    plain, both, one = (
        terms_of(plan(a, b), *names) for a, b in ((ours, theirs), (turned(ours), turned(theirs)), (turned(ours), theirs))
    )
    torch.testing.assert_close(plain, both)
    assert all(x != y for x, y in zip(plain, one))


def test_self_attention_is_arranged_on_both_axes() -> None:
    attention = [torch.arange(9.0).reshape(1, 1, 3, 3)]
    pairs = [[(torch.tensor([2, 0, 1]), torch.tensor([0, 1, 2]))]]          # partners of queries 0, 1, 2: 1, 2, 0
    assert arrange(attention, pairs, attention, over="both")[0].tolist() == [[[[4, 5, 3], [7, 8, 6], [1, 2, 0]]]]
    assert arrange(attention, pairs, attention)[0].tolist() == [[[[3, 4, 5], [6, 7, 8], [0, 1, 2]]]]
    with pytest.raises(UsageError, match="1 layers of the teacher, 1 of the student and 2 of pairs"):
        arrange(attention, pairs * 2, attention)


def test_unpaired_queries_are_left_empty() -> None:
    attention, like = [torch.tensor([[[[0.2, 0.3, 0.5]] * 3]])], [torch.zeros(1, 1, 2, 2)]
    pairs = [[(torch.tensor([0, 1]), torch.tensor([2, 0]))]]
    torch.testing.assert_close(arrange(attention, pairs, like, over="both")[0][0, 0], torch.tensor([[5.0, 2], [5, 2]]) / 7)
    one = [[(torch.tensor([1]), torch.tensor([2]))]]
    torch.testing.assert_close(arrange(attention, one, like)[0][0, 0], torch.tensor([[0.0, 0, 0], [0.2, 0.3, 0.5]]))


def test_unattended_places_are_harmless() -> None:
    ours = torch.tensor([[0.5, 0.5, 0.0]], requires_grad=True)
    value = probability_kl(ours, torch.tensor([[1.0, 0.0, 0.0]]))
    torch.testing.assert_close(value, torch.tensor([2.0]).log())
    assert torch.isfinite(torch.autograd.grad(value.sum(), ours)[0]).all()


@pytest.fixture(scope="module")
def setting() -> Setting:
    return prepare(read_method(SPECS / "d3etr.yaml"))


def batch(setting: Setting) -> Batch:
    generator = torch.Generator().manual_seed(0)
    boxes = [torch.tensor([[10.0, 10, 60, 50]]), torch.tensor([[30.0, 20, 80, 90], [0.0, 0, 40, 40]])]
    return Batch(torch.rand(2, 3, 96, 96, generator=generator), [(96, 96)] * 2, boxes, [torch.tensor([0]), torch.tensor([1, 0])])


def raw(setting: Setting, batch: Batch) -> dict[str, Any]:
    setting.plan.advance(1, 100, 10)
    return setting.plan(batch).raw


def test_the_fixed_group_gives_no_gradient_to_any_query(setting: Setting) -> None:
    values = raw(setting, batch(setting))
    fixed = torch.stack([v for name, v in values.items() if name.startswith("kd/fixed")]).sum()
    own = dict(setting.plan.student.named_parameters())
    queries = next(p for name, p in own.items() if "query_position" in name)
    assert torch.autograd.grad(fixed, queries, allow_unused=True, retain_graph=True)[0] is None
    decoder = next(p for name, p in own.items() if "decoder.layers.0" in name)
    assert torch.autograd.grad(fixed, decoder, allow_unused=True)[0] is not None
    assert all(p.grad is None and not p.requires_grad for p in setting.plan.teachers["teacher"].parameters())


def test_the_fixed_group_leaves_the_other_alone(setting: Setting) -> None:
    document = read_method(SPECS / "d3etr.yaml")
    document.document.data["search"] = {}
    document.document.data.setdefault("variants", []).append({"when": {"student.family": "transformer"}, "drop": list(GROUP_TWO)})
    alone = prepare(document)
    alone.plan.student.load_state_dict(setting.plan.student.state_dict())
    alone.plan.teachers["teacher"].load_state_dict(setting.plan.teachers["teacher"].state_dict())
    both, one = raw(setting, batch(setting)), raw(alone, batch(setting))
    assert {name for name in one if name.startswith("kd/")} == {f"kd/{name}" for name in ADAPTIVE}
    assert all(torch.equal(both[name], value) for name, value in one.items())
