from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks.common import estimate, interleave, machine_facts, ratio, table


def test_an_interval_encloses_its_median_and_narrows_with_more_values() -> None:
    few, many = ([1 + (i * 7 % 10) / 10 for i in range(count)] for count in (10, 1000))
    first, second = estimate(few), estimate(many)
    assert first.low <= first.median <= first.high
    assert second.high - second.low < first.high - first.low
    assert estimate(few) == first


def test_constant_values_have_no_spread() -> None:
    found = estimate([2.0] * 20)
    assert (found.median, found.low, found.high, found.q25, found.q75) == (2.0, 2.0, 2.0, 2.0, 2.0)


def test_a_ratio_is_taken_round_by_round() -> None:
    found = ratio({"slow": [2.0, 20.0, 200.0], "fast": [1.0, 10.0, 100.0]}, "slow", "fast")
    assert (found.low, found.high) == (2.0, 2.0)


def test_every_variant_runs_once_per_round_in_changing_order_from_the_same_random_state() -> None:
    calls: list[tuple[int, str]] = []
    drawn: dict[int, set[float]] = {}

    def step(name: str) -> Callable[[int], None]:
        def take(number: int) -> None:
            calls.append((number, name))
            drawn.setdefault(number, set()).add(float(torch.rand(())))

        return take

    ticks = iter(range(1000))
    times = interleave({n: step(n) for n in "abc"}, rounds=8, warmup=2, clock=lambda: float(next(ticks)))
    assert {name: len(own) for name, own in times.items()} == {"a": 8, "b": 8, "c": 8}
    rounds = ["".join(name for number, name in calls if number == i) for i in range(10)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) > 1
    assert all(len(values) == 1 for values in drawn.values())
    assert all(seconds == 1.0 for own in times.values() for seconds in own)


def test_the_machine_says_what_a_reader_needs() -> None:
    facts = machine_facts("cpu")
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert facts["device"]


def test_columns_are_aligned() -> None:
    lines = table(("name", "ms"), [["a", "1.0"], ["longer", "10.0"]]).splitlines()
    assert lines == ["name      ms", "a        1.0", "longer  10.0"]


@pytest.mark.parametrize("name", ["tiny", "r50-r18"])
def test_pairs_are_benches(name: str) -> None:
    from benchmarks.variants import find_pair
    from kdflow.spec.load import read
    from kdflow.spec.resolve import bench_of

    assert bench_of(read(find_pair(name)), {}).teacher is not None
