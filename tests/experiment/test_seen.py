"""Teachers that have learned nothing, and what a run says that it saw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kdflow.experiment.result import RunResult

Tiny = Callable[..., RunResult]


def test_untrained_teacher_teaches_and_what_was_seen_tells_it_apart(tiny: Tiny, any_teacher: None) -> None:
    taught = tiny("fitnet").seen
    random = tiny("fitnet", overrides={"teacher.weights": "untrained"}).seen
    other = tiny("fitnet", overrides={"teacher.weights": "untrained"}, seed=1).seen
    plain = tiny("baseline", overrides={"recipe.steps": 3}).seen
    assert plain["teachers"] == {}
    assert {one["student"] for one in (taught, random, plain)} == {taught["student"]}  # the same first weights in every method
    assert other["student"] != taught["student"]
    assert random["teachers"] == other["teachers"]  # one random teacher for all seeds
    assert _hashes(random)["weights"] != _hashes(taught)["weights"]
    assert (taught["steps"], taught["images"], plain["images"]) == (2, 4, 6)
    assert taught["batches"] == plain["batches"] != other["batches"]
    assert taught["data"] == plain["data"]


def test_untrained_teacher_needs_not_be_better_than_chance(tiny: Tiny) -> None:
    done = tiny("fitnet", overrides={"teacher.weights": "untrained"})
    assert done.status == "finished"


def _hashes(seen: Any) -> dict[str, str]:
    return dict(seen["teachers"]["teacher"])
