"""Whether a search found anything: against the student without distillation, and what luck alone would reach."""

from __future__ import annotations

from statistics import NormalDist, stdev

import numpy as np
import pytest

from kdflow.search.plain import Plain

VALUES = {0: 30.0, 1: 31.0, 2: 29.0}


def test_luck_grows_with_trials_and_noise() -> None:
    few, many = Plain("AP", VALUES, 1), Plain("AP", VALUES, 50)
    assert few.luck == pytest.approx(30 + stdev(VALUES.values()) * (4 / 3) ** 0.5 * NormalDist().inv_cdf(0.95))
    assert many.luck > few.luck
    assert Plain("AP", {0: 30.0, 1: 30.1, 2: 29.9}, 50).luck < 30.5


def test_trials_without_effect_are_called_better_as_seldom_as_said() -> None:
    """With many seeds, so that the spread is known: 5 of 100 searches over nothing find something."""
    draws = np.random.default_rng(0)
    called = 0
    for _ in range(400):
        values = dict(enumerate(draws.normal(30, 1, 60).tolist()))
        called += bool(Plain("AP", values, 20, float(draws.normal(30, 1, 20).max()), 0).differs)
    assert 0.02 < called / 400 < 0.09


def test_no_trial_differs_is_an_answer() -> None:
    first, second = Plain("AP", VALUES, 20, 32.0, 7).words
    assert first == "without distillation, validation: AP 30.00 +- 1.00 (seeds 0, 1, 2)"
    lucky = "by luck alone the best of 20 would reach up to 33.23"
    assert second == f"no trial differs from that beyond noise: the best has 32.00, and {lucky}"


def test_what_is_beyond_noise_is_named() -> None:
    assert Plain("AP", VALUES, 20, 35.0, 7).words[1].startswith("trial 7 is better than that beyond noise: 35.00; by luck alone")


def test_one_seed_knows_no_noise() -> None:
    found = Plain("AP", {0: 30.0}, 20, 35.0, 7)
    assert (found.luck, found.differs) == (None, None)
    assert found.words == (
        "without distillation, validation: AP 30.00 (seed 0)",
        "the noise over seeds is not known: --plain-seeds 3 measures it",
    )


def test_nothing_is_said_where_nothing_was_run() -> None:
    assert Plain("AP").words == ()
    assert Plain("AP", VALUES).words == ("without distillation, validation: AP 30.00 +- 1.00 (seeds 0, 1, 2)",)
