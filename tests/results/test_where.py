import operator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdflow.errors import UsageError
from kdflow.results.record import Record
from kdflow.results.where import MAX_DEPTH, MAX_LENGTH, WhereError, fields, where

FGD = Record(
    origin="published", method="fgd", bench="b", dataset="coco2017", family="dense", nodes=("cnn/neck",),
    knowledge=("feature", "relation"), metrics={"AP": 39.7}, verified=False,
)
RUN = Record(
    origin="measured", method="kd-detr", bench="shapes-detr", dataset="shapes", family="transformer", seed=3,
    nodes=("transformer/logit",), rewires=("transformer/query",), knowledge=("response",), variant="terms.a.weight=2",
    metrics={"AP": 51.25, "AP50": 70.0},
)
BARE = Record(origin="measured", method="baseline", bench="shapes-detr", metrics={}, seed=0)
ALL = (FGD, RUN, BARE)


def chosen(text: str) -> list[str]:
    test = where(text)
    return [record.method for record in ALL if test(record)]


@pytest.mark.parametrize(
    ("text", "methods"),
    [
        ("", ["fgd", "kd-detr", "baseline"]),
        ("  ", ["fgd", "kd-detr", "baseline"]),
        ("method = 'fgd'", ["fgd"]),
        ('method == "fgd"', ["fgd"]),
        ("method = fgd", ["fgd"]),
        ("method != fgd", ["kd-detr", "baseline"]),
        ("method in ('fgd', 'baseline')", ["fgd", "baseline"]),
        ("method not in (fgd,baseline)", ["kd-detr"]),
        ("method ~ 'kd-*'", ["kd-detr"]),
        ("method ~ ?gd", ["fgd"]),
        ("method !~ '*d*'", ["baseline"]),
        ("AP > 39.7", ["kd-detr"]),
        ("AP >= 39.7", ["fgd", "kd-detr"]),
        ("AP < 4e1", ["fgd"]),
        ("AP = 51.25", ["kd-detr"]),
        ("AP <= 100 and AP50 > 0", ["kd-detr"]),
        ("AP is null", ["baseline"]),
        ("AP is not null", ["fgd", "kd-detr"]),
        ("seed = 3", ["kd-detr"]),
        ("seed in (0, 3)", ["kd-detr", "baseline"]),
        ("seed is null", ["fgd"]),
        ("verified = false", ["fgd"]),
        ("verified = TRUE", ["kd-detr", "baseline"]),
        ("node = cnn/neck", ["fgd"]),
        ("node = 'cnn'", ["fgd"]),
        ("node = transformer", ["kd-detr"]),
        ("node ~ '*/logit'", ["kd-detr"]),
        ("node in (cnn, transformer)", ["fgd", "kd-detr"]),
        ("node != cnn", ["kd-detr"]),
        ("not node = cnn", ["kd-detr", "baseline"]),
        ("node is null", ["baseline"]),
        ("rewires = transformer/query", ["kd-detr"]),
        ("knowledge = relation", ["fgd"]),
        ("variant is null", ["fgd", "baseline"]),
        ("method = fgd or method = kd-detr and AP > 60", ["fgd"]),
        ("(method = fgd or method = kd-detr) and AP > 40", ["kd-detr"]),
        ("not method = fgd and not method = baseline", ["kd-detr"]),
        ("not (method = fgd or method = baseline)", ["kd-detr"]),
        ("dataset = 'coco'", ["fgd"]),
        ("dataset in (coco2014, coc)", []),
        ("NOT method IN ('pkd','fgd') AND dataset = shapes", ["kd-detr"]),
        ("dataset = 'coco2017' and node = 'cnn/neck' and AP > 30 or not method in ('kd-detr','fgd')", ["fgd", "baseline"]),
        ("not not method = fgd", ["fgd"]),
        ("method\n=\t'fgd'", ["fgd"]),
    ],
)
def test_filters_choose_the_records_they_describe(text: str, methods: list[str]):
    assert chosen(text) == methods


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("metod = 'a'", 0, 'no field "metod". Did you mean "method"'),
        ("AP > 3 and metod = 1", 11, "no field"),
        ("AP > 'x'", 5, "AP is a number"),
        ("AP > fgd", 5, "AP is a number"),
        ("AP >", 4, "a value for AP is expected here, but the filter ends"),
        ("AP", 2, "a comparison (=, !=, <, <=, >, >=, ~, in, is) is expected after AP"),
        ("(AP > 3", 7, '")" is expected here, but the filter ends'),
        ("AP > 3)", 6, '"and", "or" or the end is expected here, not )'),
        ("AP > 3 4", 7, '"and", "or" or the end'),
        ("method < 'a'", 7, "< is for numbers, and method is text"),
        ("seed ~ '3'", 5, "patterns are for text, and seed is a number"),
        ("verified > true", 9, "> is for numbers, and verified is true or false"),
        ("verified = 3", 11, "verified is true or false"),
        ("node = 'cnn/nek'", 7, 'no taxonomy node "cnn/nek". Did you mean "cnn/neck"'),
        ("bench = 'shapes-*'", 8, '"shapes-*" is a pattern; write bench ~ "shapes-*"'),
        ("method in (kd-?)", 11, "is a pattern"),
        ("method = 'abc", 9, "this quote is not closed"),
        ("method = 'a' & AP = 3", 13, "'&' has no meaning here"),
        ("and", 0, "a field is expected here, not and"),
        ("not", 3, "a field is expected here, but the filter ends"),
        ("method not = a", 11, '"in" is expected after "not"'),
        ("method in a", 10, '"(" is expected here, not a'),
        ("method in ()", 11, "a value for method is expected here, not )"),
        ("method in (a b)", 13, '")" is expected here, not b'),
        ("AP is 3", 6, '"null" is expected here, not 3'),
        ("__class__ = 'a'", 0, "no field"),
        ("metrics.get = 1", 0, "no field"),
    ],
)
def test_a_fault_is_shown_at_its_place(text: str, position: int, message: str):
    with pytest.raises(WhereError) as caught:
        where(text)
    assert caught.value.position == position
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"filter, character {position + 1}: ")
    assert message in lines[0]
    assert lines[1:] == [f"  {text}", f"  {' ' * position}^"]


def test_metrics_that_only_some_records_have_may_be_named():
    test = where("AP_tiny > 5", metrics=("AP_tiny",))
    assert test(Record(origin="measured", method="m", bench="b", metrics={"AP_tiny": 6.0}))
    assert not test(BARE)


def test_endless_filters_are_refused():
    with pytest.raises(WhereError, match="nested deeper"):
        where("(" * (MAX_DEPTH + 1) + "AP > 1" + ")" * (MAX_DEPTH + 1))
    with pytest.raises(UsageError, match="at most"):
        where(" " * MAX_LENGTH + "AP > 1")
    assert where("(" * (MAX_DEPTH - 1) + "AP > 1" + ")" * (MAX_DEPTH - 1))(FGD)


names = st.sampled_from(["fgd", "kd-detr", "pkd", "a b", "x/y", "it's"])
numbers = st.floats(0, 100, allow_nan=False).map(lambda x: round(x, 2))
records = st.builds(
    lambda method, ap, seed, verified, knowledge: Record(
        origin="measured", method=method, bench="b", metrics={} if ap is None else {"AP": ap}, seed=seed, verified=verified,
        knowledge=tuple(knowledge),
    ),
    names, st.none() | numbers, st.none() | st.integers(0, 5), st.booleans(),
    st.sets(st.sampled_from(["feature", "response"])),
)
SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq, "!=": operator.ne}


def quoted(text: str) -> str:
    return f'"{text}"' if "'" in text else f"'{text}'"


def simple() -> st.SearchStrategy:
    """Pairs of a filter's text and the function that it should be."""
    ap = st.tuples(st.sampled_from(sorted(SIGNS)), numbers).map(
        lambda p: (f"AP {p[0]} {p[1]}", lambda r: "AP" in r.metrics and SIGNS[p[0]](r.metrics["AP"], p[1]))
    )
    method = names.map(lambda n: (f"method = {quoted(n)}", lambda r: r.method == n))
    several = st.lists(names, min_size=1, max_size=3).map(
        lambda ns: (f"method in ({', '.join(map(quoted, ns))})", lambda r: r.method in ns)
    )
    flag = st.booleans().map(lambda b: (f"verified = {str(b).lower()}", lambda r: r.verified is b))
    unknown = st.just(("seed is null", lambda r: r.seed is None))
    kind = st.just(("knowledge = response", lambda r: "response" in r.knowledge))
    return ap | method | several | flag | unknown | kind


def combined(inner: st.SearchStrategy) -> st.SearchStrategy:
    negated = inner.map(lambda t: (f"not ({t[0]})", lambda r: not t[1](r)))
    both = st.tuples(inner, inner).map(lambda p: (f"({p[0][0]}) and ({p[1][0]})", lambda r: p[0][1](r) and p[1][1](r)))
    either = st.tuples(inner, inner).map(lambda p: (f"({p[0][0]}) or ({p[1][0]})", lambda r: p[0][1](r) or p[1][1](r)))
    return negated | both | either


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(test=st.recursive(simple(), combined, max_leaves=6), record=records)
def test_a_filter_means_what_its_parts_mean(test, record: Record):
    text, expected = test
    assert where(text)(record) == expected(record)


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(a=simple(), b=simple(), c=simple(), record=records)
def test_and_binds_tighter_than_or_and_not_tightest(a, b, c, record: Record):
    assert where(f"{a[0]} or {b[0]} and {c[0]}")(record) == (a[1](record) or (b[1](record) and c[1](record)))
    assert where(f"not {a[0]} and {b[0]}")(record) == ((not a[1](record)) and b[1](record))


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(st.text(alphabet="AP method'\"()=<>~!,and or not in is null 0.5*\n", max_size=40) | st.text(max_size=30))
def test_any_text_is_read_or_refused_with_a_place(text: str):
    fault: WhereError | None = None
    try:
        answer = where(text)(FGD)
    except WhereError as error:
        fault = error
    if fault is None:
        assert answer in (True, False)
    else:
        assert 0 <= fault.position <= len(text)


def test_every_listed_field_can_be_asked_for():
    for name in fields():
        where(f"{name} is null")(RUN)
