from dataclasses import replace

import pytest

from kdflow.errors import UsageError
from kdflow.results.published import published_records
from kdflow.results.query import Answer, Group, Line, query
from kdflow.results.record import Record


def run(method: str, ap: float, seed: int = 0, **other) -> Record:
    nodes = {"baseline": (), "fgd": ("cnn/neck",), "defeat": ("cnn/neck", "cnn/rpn-roi")}.get(method, ("cnn/head",))
    values = {"bench": "shapes", "nodes": nodes, "family": "two-stage", "knowledge": ("feature",) if nodes else ()} | other
    return Record(origin="measured", method=method, metrics={"AP": ap, "AP50": ap + 20}, seed=seed, **values)


def paper(method: str, ap: float, base: float | None, **other) -> Record:
    stated = {"baseline": {"AP": base}, "gain": {"AP": round(ap - base, 4)}} if base is not None else {}
    values = {"bench": "coco R101 -> R50", "nodes": ("cnn/neck",)} | stated | other
    return Record(origin="published", method=method, metrics={"AP": ap}, **values)


SEEDS = [run("baseline", 30.0, 0), run("baseline", 32.0, 1), run("fgd", 33.0, 0), run("fgd", 34.0, 1)]


def group(answer: Answer, key: str) -> Group:
    return next(group for group in answer.groups if group.key == key)


def line(answer: Answer, key: str, label: str) -> Line:
    return next(line for line in group(answer, key).lines if line.label == label)


def labels(answer: Answer, key: str) -> list[str]:
    return [line.label for line in group(answer, key).lines]


def test_seeds_of_one_method_are_averaged_with_their_spread():
    found = line(query(SEEDS), "cnn/neck", "fgd")
    assert (found.runs, found.seeds) == (2, (0, 1))
    assert found.mean == {"AP": 33.5, "AP50": 53.5}
    assert found.spread["AP"] == pytest.approx(0.5**0.5)


def test_the_gain_is_counted_from_the_plain_student_of_the_bench():
    found = line(query([*SEEDS, run("baseline", 90.0, bench="other")]), "cnn/neck", "fgd")
    assert found.gain == {"AP": 2.5, "AP50": 2.5}
    assert found.gain_spread["AP"] == pytest.approx(0.5**0.5), "differences per seed: 3 and 2"


def test_the_spread_of_a_gain_over_unlike_seeds_joins_both_spreads():
    records = [run("baseline", 30.0, 5), run("baseline", 32.0, 6), run("fgd", 33.0, 0), run("fgd", 34.0, 1)]
    assert line(query(records), "cnn/neck", "fgd").gain_spread["AP"] == pytest.approx((2.0 + 0.5) ** 0.5)


def test_one_run_has_no_spread_and_no_baseline_means_no_gain():
    found = line(query([run("fgd", 33.0)]), "cnn/neck", "fgd")
    assert (found.spread, found.gain, found.gain_spread) == ({}, {}, {})


def test_a_bench_that_resolves_differently_is_another_bench():
    records = [
        run("baseline", 30.0, bench_hash="a"), run("baseline", 10.0, bench_hash="b", variant="recipe.steps=5"),
        run("fgd", 33.0, bench_hash="a"), run("fgd", 12.0, bench_hash="b", variant="recipe.steps=5"),
    ]
    answer = query(records)
    assert line(answer, "cnn/neck", "fgd").gain["AP"] == 3.0
    assert line(answer, "cnn/neck", "fgd (recipe.steps=5)").gain["AP"] == 2.0


def test_overrides_are_not_averaged_with_the_method_as_declared():
    records = [*SEEDS, run("fgd", 40.0, 0, variant="terms.neck.weight=2")]
    answer = query(records)
    assert line(answer, "cnn/neck", "fgd").mean["AP"] == 33.5
    assert line(answer, "cnn/neck", "fgd (terms.neck.weight=2)").gain["AP"] == 9.0


def test_of_one_seed_the_newest_run_counts():
    records = [*SEEDS, run("fgd", 50.0, 0, started="2030")]
    answer = query(records)
    assert line(answer, "cnn/neck", "fgd").mean["AP"] == 42.0
    assert answer.superseded == 1


def test_runs_of_an_older_definition_are_no_repetitions():
    records = [
        run("fgd", 1.0, 0, definition="old", started="2020"), run("fgd", 2.0, 1, definition="old", started="2020"),
        run("fgd", 33.0, 0, definition="new", started="2021"),
    ]
    answer = query(records)
    assert line(answer, "cnn/neck", "fgd").mean["AP"] == 33.0
    assert answer.superseded == 2


def test_a_method_is_listed_under_each_of_its_nodes_with_the_plain_student_on_top():
    answer = query([*SEEDS, run("defeat", 36.0)])
    assert labels(answer, "cnn/neck") == ["no distillation", "defeat", "fgd"]
    assert labels(answer, "cnn/rpn-roi") == ["no distillation", "defeat"]
    assert [group.key for group in answer.groups] == ["cnn", "cnn/neck", "cnn/rpn-roi"], "in the order of the tree"
    assert group(answer, "cnn").lines == ()


def test_a_plain_student_without_any_method_is_still_shown():
    assert labels(query([run("baseline", 30.0)]), "baseline") == ["no distillation"]


def test_the_plain_student_stays_when_the_filter_names_a_method_only():
    answer = query(SEEDS, where="method = fgd")
    assert len(answer.records) == 2
    assert line(answer, "cnn/neck", "fgd").gain["AP"] == 2.5


@pytest.mark.parametrize(
    ("by", "keys"),
    [("method", ["defeat", "fgd"]), ("bench", ["shapes"]), ("family", ["two-stage"]), ("knowledge", ["feature"])],
)
def test_records_are_grouped_by_other_words(by: str, keys: list[str]):
    answer = query([*SEEDS, run("defeat", 36.0)], by=by)
    assert [group.key for group in answer.groups] == keys
    assert all(group.lines[0].record.is_baseline for group in answer.groups)


def test_measured_and_published_numbers_are_never_joined():
    answer = query([*SEEDS, paper("fgd", 40.7, 37.4)])
    lines = group(answer, "cnn/neck").lines
    assert [(line.record.origin, line.label, line.mean["AP"]) for line in lines] == [
        ("measured", "no distillation", 31.0), ("measured", "fgd", 33.5),
        ("published", "no distillation", 37.4), ("published", "fgd", 40.7),
    ]
    assert [(s.origin, s.lines, s.median) for s in group(answer, "cnn/neck").summaries] == [
        ("measured", 1, 2.5), ("published", 1, pytest.approx(3.3)),
    ]


def test_published_numbers_of_one_setting_are_not_averaged():
    answer = query([paper("fgd", 40.7, 37.4, source="a"), paper("fgd", 40.9, 37.4, source="b")])
    assert labels(answer, "cnn/neck") == ["no distillation", "fgd", "fgd"]
    assert [line.gain.get("AP") for line in group(answer, "cnn/neck").lines] == [None, pytest.approx(3.5), pytest.approx(3.3)]


def test_a_measured_line_shows_the_range_of_published_gains_of_its_method():
    records = [*SEEDS, paper("fgd", 40.7, 37.4), paper("fgd", 42.0, 38.4), paper("fgd", 50.0, 37.4, ablation=True)]
    answer = query(records, where="origin = measured")
    assert line(answer, "cnn/neck", "fgd").literature == (pytest.approx(3.3), pytest.approx(3.6))
    assert line(answer, "cnn/neck", "no distillation").literature is None


def test_ablations_of_papers_are_listed_on_request():
    records = [paper("fgd", 40.7, 37.4), paper("fgd", 39.0, 37.4, ablation=True, variant="focal only")]
    assert labels(query(records), "cnn/neck") == ["no distillation", "fgd"]
    assert "fgd (focal only)" in labels(query(records, ablations=True), "cnn/neck")


def test_gains_may_be_counted_from_another_method():
    answer = query([*SEEDS, run("defeat", 36.0, 0), run("defeat", 37.0, 1)], against="fgd")
    assert line(answer, "cnn/neck", "defeat").gain["AP"] == 3.0
    assert line(answer, "cnn/neck", "fgd").gain == {}
    assert line(answer, "cnn/neck", "no distillation").gain["AP"] == -2.5


def test_a_lower_miss_rate_is_a_gain():
    record = replace(paper("pgd", 1.0, None), metrics={"MR": 42.8}, baseline={"MR": 46.0}, gain={"MR": -3.2})
    answer = query([record], metric="MR")
    assert line(answer, "cnn/neck", "pgd").gain == {"MR": 3.2}


def test_nodes_outside_the_taxonomy_are_listed_last_and_said_to_be():
    answer = query([*SEEDS, run("new", 30.0, nodes=("cnn/tail",))])
    assert answer.groups[-1].title == "cnn/tail (not in this taxonomy)"


def test_a_metric_that_only_some_seeds_have_is_left_out():
    records = [run("fgd", 33.0, 0), replace(run("fgd", 34.0, 1), metrics={"AP": 34.0})]
    assert line(query(records), "cnn/neck", "fgd").mean == {"AP": 33.5}


def test_unknown_words_are_refused_with_the_choices():
    with pytest.raises(UsageError, match=r'cannot be grouped by "node".*taxonomy'):
        query(SEEDS, by="node")
    with pytest.raises(UsageError, match=r'no metric "ap".*AP'):
        query(SEEDS, metric="ap")


def test_no_records_give_an_empty_answer():
    assert query([]).groups == ()


def test_the_whole_literature_is_grouped_under_all_seven_nodes():
    answer = query(published_records())
    by_key = {group.key: group for group in answer.groups}
    assert len([key for key in by_key if "/" in key]) == 7
    assert all(by_key[key].summaries[0].median > 0 for key in by_key if "/" in key)
    listed = {line.record.method for group in answer.groups for line in group.lines}
    assert {"defeat", "fgd", "kd-detr", "qskd"} <= listed


TAUGHT = [
    run("baseline", 30.0, classes={"cat": 40.0, "dog": 20.0}),
    run("fgd", 33.0, classes={"cat": 41.0, "dog": 25.0}, reached={"AP": 36.0, "AP50": 49.0}),
]


def test_the_part_of_the_gap_to_the_teacher_that_was_closed_is_known_where_there_is_a_gap():
    taught = line(query(TAUGHT, "bench"), "shapes", "fgd")
    assert taught.closed == {"AP": pytest.approx(50.0)}, "in AP50 the teacher is below the plain student"
    assert taught.teacher["AP"] == 36.0
    assert line(query(TAUGHT, "bench"), "shapes", "no distillation").closed == {}


def test_classes_are_averaged_over_seeds_and_compared_with_the_plain_student():
    second = replace(TAUGHT[1], seed=1, classes={"cat": 43.0, "dog": 27.0})
    taught = line(query([*TAUGHT, second], "bench"), "shapes", "fgd")
    assert taught.classes == {"cat": 42.0, "dog": 26.0}
    assert taught.class_gain == {"cat": 2.0, "dog": 6.0}


def test_records_of_older_versions_know_neither_classes_nor_what_the_teacher_reaches():
    old = line(query([TAUGHT[0], run("fgd", 33.0)], "bench"), "shapes", "fgd")
    assert (old.classes, old.teacher, old.closed) == ({}, {}, {})
    assert old.gain["AP"] == pytest.approx(3.0)
