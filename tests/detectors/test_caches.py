"""What is kept for the whole process by its arguments."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from kdflow.detectors.caches import remembered
from kdflow.graph.passes.fakes import Fakes


def test_tensors_are_remembered_but_none_of_a_pass_on_fake_tensors() -> None:
    @remembered(2)
    def ones(count: int) -> Tensor:
        return torch.ones(count)

    fakes = Fakes()
    with fakes.active():
        assert type(ones(3)) is FakeTensor
    real = ones(3)
    assert type(real) is Tensor
    assert ones(3) is real
    with fakes.active():
        assert type(ones(3)) is FakeTensor
