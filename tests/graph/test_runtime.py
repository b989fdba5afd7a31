from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdflow.graph.runtime import Streams, stream_key
from kdflow.graph.term_call import any_alive


def test_a_stream_draws_what_its_key_says_and_leaves_the_global_generator_alone() -> None:
    streams = Streams(3)
    streams.step, streams.part = 5, 1
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with streams.of("node"):
        drawn = torch.rand(4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(stream_key(3, 5, "1/node"))
    assert torch.equal(drawn, torch.rand(4))


def test_without_a_seed_the_global_generator_is_drawn_from() -> None:
    torch.manual_seed(0)
    with Streams(None).of("node"):
        drawn = torch.rand(4)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(4))


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([True], True),
        ([False], False),
        ([False, True], True),
        ([torch.tensor(False), True], True),
        ([torch.tensor(False), False], False),
        ([torch.tensor(False), torch.tensor(True)], True),
    ],
)
def test_a_term_lives_when_any_entry_does(entries: list[Tensor | bool], expected: bool) -> None:
    found = any_alive(entries, torch.zeros(()))
    assert found.dtype == torch.bool
    assert found.shape == ()
    assert bool(found) is expected
