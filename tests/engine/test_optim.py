from __future__ import annotations

import pytest
import torch
from torch import nn

from kdflow.engine.average import MovingAverage
from kdflow.engine.norms import prepare_norms, training_mode
from kdflow.engine.optim import build_optimizer, build_scheduler
from kdflow.errors import UsageError
from kdflow.spec.bench import Optimizer, Schedule


def named() -> dict[str, nn.Parameter]:
    model = nn.ModuleDict({"student": nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 1)})})
    model["ops"] = nn.ModuleDict({"aligned": nn.Linear(1, 1)})
    return dict(model.named_parameters())


def rates(optimizer: torch.optim.Optimizer, names: dict[str, nn.Parameter]) -> dict[str, tuple[float, float]]:
    by_id = {id(p): n for n, p in names.items()}
    return {by_id[id(p)]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}


@pytest.mark.parametrize(("name", "kind"), [("sgd", "SGD"), ("adam", "Adam"), ("adamw", "AdamW")])
def test_optimizer_by_name(name: str, kind: str) -> None:
    own = {"momentum": 0.8} if name == "sgd" else {}
    optimizer = build_optimizer(Optimizer(name=name, lr=0.3, weight_decay=0.2, **own), named())
    assert type(optimizer).__name__ == kind
    assert len(optimizer.param_groups) == 1
    assert optimizer.param_groups[0]["weight_decay"] == 0.2
    assert optimizer.param_groups[0].get("momentum", 0.8) == 0.8


def test_lr_factors_by_pattern_first_match_decides() -> None:
    names = named()
    recipe = Optimizer(lr=1.0, lr_factors={"backbone.weight": 0.5, "backbone.*": 0.1, "ops.*": 2.0})
    found = rates(build_optimizer(recipe, names), names)
    assert {n: lr for n, (lr, _) in found.items()} == {
        "student.backbone.weight": 0.5, "student.backbone.bias": 0.1, "student.head.weight": 1.0,
        "student.head.bias": 1.0, "ops.aligned.weight": 2.0, "ops.aligned.bias": 2.0,
    }


def test_no_decay_for_norms_and_biases() -> None:
    names = named()
    found = rates(build_optimizer(Optimizer(weight_decay=0.3, no_decay_norms=True), names), names)
    assert {n.rpartition(".")[2]: decay for n, (_, decay) in found.items()} == {"weight": 0.3, "bias": 0.0}


def test_pattern_that_fits_nothing_is_refused_with_choices() -> None:
    with pytest.raises(UsageError, match=r'"bakcbone.\*" fits no parameter. Did you mean "backbone.\*"'):
        build_optimizer(Optimizer(lr_factors={"bakcbone.*": 0.1}), named())


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(UsageError, match="no parameter is left to train"):
        build_optimizer(Optimizer(), {})


def test_schedule_multiplies_every_group() -> None:
    names = named()
    optimizer = build_optimizer(Optimizer(lr=1.0, lr_factors={"backbone.*": 0.1}), names)
    scheduler = build_scheduler(Schedule(name="linear"), optimizer, 4)
    seen = []
    for _ in range(4):
        seen.append(sorted({g["lr"] for g in optimizer.param_groups}))
        optimizer.step()
        scheduler.step()
    torch.testing.assert_close(torch.tensor(seen), torch.tensor([[0.1, 1], [0.075, 0.75], [0.05, 0.5], [0.025, 0.25]]))


def test_moving_average_follows_its_formula_and_gives_the_weights_back() -> None:
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    module[0].weight.data.fill_(1.0)
    average = MovingAverage(module, 0.5)
    for value in (2.0, 3.0, 4.0):
        module[0].weight.data.fill_(value)
        module[1].running_mean.fill_(value)
        average.update()
    expected = 1.0
    for update, value in enumerate((2.0, 3.0, 4.0)):
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * value
    with average.applied():
        assert module[0].weight.item() == pytest.approx(expected)
        assert module[1].running_mean.item() == 4.0  # buffers are taken over
    assert module[0].weight.item() == 4.0


def test_moving_average_keeps_tied_weights_averaged() -> None:
    first = nn.Linear(1, 1, bias=False)
    module = nn.ModuleList([first, first])
    first.weight.data.fill_(0.0)
    average = MovingAverage(module, 0.999)
    first.weight.data.fill_(1.0)
    average.update()
    with average.applied():
        assert first.weight.item() == pytest.approx(0.9)


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.teachers: dict[str, nn.Module] = {}
        self.student = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


@pytest.mark.parametrize(("policy", "moves"), [("train", True), ("frozen", False)])
def test_norm_policy(policy: str, moves: bool) -> None:
    plan = Holder()
    prepare_norms(plan.student, policy, 1, torch.device("cpu"))
    plan.eval()
    training_mode(plan, policy)
    plan.student(torch.randn(8, 2) + 5).sum().backward()
    norm = plan.student[1]
    assert bool(norm.running_mean.ne(0).any()) is moves
    assert (norm.weight.grad is not None) is moves
    assert plan.student[0].weight.grad is not None


def test_sync_swaps_the_class_in_place_on_gpus_and_is_refused_where_torch_cannot() -> None:
    plan = Holder()
    norm = plan.student[1]
    prepare_norms(plan.student, "sync", 1, torch.device("cpu"))
    assert type(norm) is nn.BatchNorm1d  # one process has nothing to synchronise
    with pytest.raises(UsageError, match="sync needs GPUs"):
        prepare_norms(plan.student, "sync", 2, torch.device("cpu"))
    keys = list(plan.student.state_dict())
    prepare_norms(plan.student, "sync", 2, torch.device("cuda"))
    assert isinstance(norm, nn.SyncBatchNorm)
    assert list(plan.student.state_dict()) == keys

    class Activated(nn.BatchNorm1d):
        pass

    plan.student[1] = Activated(2)
    with pytest.raises(UsageError, match="1 is a Activated, which torch cannot synchronise"):
        prepare_norms(plan.student, "sync", 2, torch.device("cuda"))
