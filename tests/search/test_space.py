from __future__ import annotations

from dataclasses import replace

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from kdflow.errors import UsageError
from kdflow.experiment.reading import read_method
from kdflow.experiment.setup import prepare
from kdflow.search.sampling import make_pruner, make_sampler
from kdflow.search.space import Space, read_includes, read_range, space_of
from tests.paths import BENCH


def test_ranges_are_read_in_every_form() -> None:
    assert read_range("1..16").model_dump(include={"low", "high", "log"}) == {"low": 1, "high": 16, "log": False}
    assert read_range("1e-4..1e-2, log").log
    assert read_range("2..8,step=2").step == 2
    assert read_range("0.5, 1, 2").choices == (0.5, 1, 2)
    assert read_range("[adam, sgd]").choices == ("adam", "sgd")
    assert read_range("{low: 1, high: 2}").high == 2


@pytest.mark.parametrize("text", ["", "3", "5..1", "0..1,log", "1..2,log,step=0.5", "{low: 1}", "1..x", "{low: 1, hihg: 2}"])
def test_text_that_is_no_range_is_refused_in_words(text: str) -> None:
    with pytest.raises(UsageError, match="range"):
        read_range(text)
    with pytest.raises(UsageError, match="PATH=RANGE"):
        read_includes(["terms.neck.weight"])


def test_ranges_become_distributions_and_whole_steps_whole_numbers() -> None:
    space = Space(read_includes(["a=1..16,log", "b=2..8,step=2", "c=[1, two]", "d=[[1, 2], [3]]"]))
    assert space.distributions() == {
        "a": FloatDistribution(1, 16, log=True),
        "b": IntDistribution(2, 8, step=2),
        "c": CategoricalDistribution([1, "two"]),
        "d": CategoricalDistribution(["[1, 2]", "[3]"]),
    }
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    values = space.suggest(trial)
    assert values == space.suggest(trial)
    assert values["d"] in ([1, 2], [3])
    assert space.values(trial.params) == values
    assert space.params({"d": [3]}) == {"d": "[3]"}


def test_grid_takes_all_choices_and_divides_ranges_evenly() -> None:
    space = Space(read_includes(["a=1..16,log", "b=[x, y]"]))
    points = space.grid(10)
    assert len(points) == 10
    assert [round(p["a"], 6) for p in points if p["b"] == "x"] == [1, 2, 4, 8, 16]
    with pytest.raises(UsageError, match="at least 4 points"):
        space.grid(3)


def test_dropped_terms_are_not_searched_and_set_values_are_not_either() -> None:
    setting = prepare(read_method("defeat"), BENCH, overrides={"terms.roi_rest.weight": 1.0})
    space = space_of(setting)
    assert set(space.ranges) == {"terms.neck_objects.weight", "terms.neck_rest.weight", "terms.roi_objects.weight"}
    assert space.declared["terms.neck_rest.weight"] == 12.0


def test_variant_that_drops_a_term_takes_its_range_along() -> None:
    spec = read_method("defeat")
    setting = prepare(spec, BENCH)
    setting = replace(setting, method=spec.resolve({"student.family": "dense", "bench": "tiny"}))
    space = space_of(setting)
    assert list(space.ignored) == ["terms.roi_objects.weight", "terms.roi_rest.weight"]
    assert set(space.ranges) == {"terms.neck_objects.weight", "terms.neck_rest.weight"}


def test_where_weights_are_calibrated_their_common_share_is_searched() -> None:
    setting = prepare(read_method("defeat"), BENCH, overrides={"recipe.calibrate": {"share": 0.4}})
    space = space_of(setting)
    assert {path: (r.low, r.high) for path, r in space.ranges.items()} == {"recipe.calibrate.share": (0.2, 0.7)}
    assert space.declared == {"recipe.calibrate.share": 0.4}
    assert set(space.ignored.values()) == {"recipe.calibrate sets it when a run begins"}
    both = space_of(setting, read_includes(["terms.roi_rest.weight=1..4"]))  # of several weights the ratio counts
    assert set(both.ranges) == {"recipe.calibrate.share", "terms.roi_rest.weight"}
    fixed = prepare(read_method("defeat"), BENCH, overrides={"recipe.calibrate": True, "recipe.calibrate.share": 0.4})
    assert "recipe.calibrate.share" not in space_of(fixed, read_includes(["recipe.optimizer.lr=0.001..0.1,log"])).ranges


def test_a_weight_that_the_run_sets_itself_cannot_be_searched() -> None:
    setting = prepare(read_method("pkd"), BENCH, overrides={"recipe.calibrate": True})
    assert {path: (r.low, r.high) for path, r in space_of(setting).ranges.items()} == {"recipe.calibrate.share": (0.25, 0.75)}
    with pytest.raises(UsageError, match=r"no effect. Next: --include recipe.calibrate.share"):
        space_of(setting, read_includes(["terms.neck.weight=1..4"]))


def test_without_any_range_the_message_lists_what_could_be_searched() -> None:
    setting = prepare(read_method("baseline"), BENCH)
    with pytest.raises(UsageError, match=r"--include .*recipe.optimizer.lr"):
        space_of(setting)
    space = space_of(setting, read_includes(["recipe.optimizer.lr=0.001..0.1,log"]))
    assert space.declared == {"recipe.optimizer.lr": 0.01}


def test_samplers_and_pruners_by_name() -> None:
    space = Space(read_includes(["a=0..1"]))
    for name in ("tpe", "random", "gp", "grid"):
        study = optuna.create_study(sampler=make_sampler(name, space, 1, 4))
        assert 0 <= space.suggest(study.ask())["a"] <= 1
    with pytest.raises(UsageError, match="tpe"):
        make_sampler("tpee", space, 0, 4)
    assert isinstance(make_pruner("median", 10, 2), optuna.pruners.MedianPruner)
    assert isinstance(make_pruner("hyperband", 10, 2), optuna.pruners.HyperbandPruner)
    with pytest.raises(UsageError, match="median"):
        make_pruner("medium", 10, 2)


def test_grid_sampler_gives_the_nth_point_to_the_nth_trial() -> None:
    space = Space(read_includes(["a=[1, 2]", "b=[x, y]"]))
    study = optuna.create_study(sampler=make_sampler("grid", space, 0, 4))
    found = [space.suggest(study.ask()) for _ in range(4)]
    assert found == [{"a": a, "b": b} for a in (1, 2) for b in ("x", "y")]
