from collections import Counter
from pathlib import Path

import pytest

from kdflow.errors import KdflowError
from kdflow.resources import taxonomy_folder
from kdflow.results.published import PublishedRow, load_published, published_records, read_published_file

METRIC_OF_TABLE = {1: "AP", 2: "AP", 3: "voc_ap50"}
ROWS_OF_TABLE = {1: 22, 2: 10, 3: 18}
SUM_OF_TABLE = {
    1: {"AP": 889.11, "AP_S": 431.68, "AP_M": 820.5, "AP_L": 987.22, "AP50": 732.95, "AP75": 531.42},
    2: {"AP": 395.3, "AP_S": 177.8, "AP_M": 349.5, "AP_L": 423.3, "AP50": 120.0, "AP75": 86.3},
    3: {"voc_ap50": 1419.69},
}
"""Table -> metric -> sum of all printed values: a lost or mistyped number of the review changes it."""

METHODS = {
    "bckd", "clockdistill", "crosskd", "cwd", "d3etr", "ddf", "defeat", "detkds", "detrdistill", "dist", "dkd",
    "drkd", "dsig", "fgd", "fgfi", "fitnet", "freekd", "frs", "g-detkd", "gid", "head", "icd", "joint-detnas",
    "kd-detr", "kd-logits", "lad", "ld", "lekd", "maskd", "mgd", "mimic", "msrlr", "odgk", "pad", "pgd", "pkd",
    "pp-yoloe", "qskd", "reviewkd", "rm-pfi", "rt-detrv4", "ssim-kd", "taed", "tard", "teach-detr", "tf-head",
    "yolo-l2", "yolov6",
}


def review_rows() -> list[PublishedRow]:
    return [row for file in load_published().values() for row in file.rows if row.review]


def test_every_method_has_a_file():
    assert set(load_published()) == METHODS | {"baseline"}


def test_every_row_of_the_reviews_tables_is_there():
    assert Counter(row.review.table for row in review_rows()) == ROWS_OF_TABLE


@pytest.mark.parametrize("table", [1, 2, 3])
def test_the_reviews_numbers_add_up(table: int):
    sums: Counter[str] = Counter()
    for row in review_rows():
        if row.review.table == table:
            printed = dict(row.result)
            if table == 3:
                printed = {"voc_ap50": printed["voc_ap50"]}
            sums.update(printed)
    assert {name: round(value, 2) for name, value in sums.items()} == SUM_OF_TABLE[table]


def test_label_errors_of_the_review_are_kept_as_notes():
    wrong = {row.review.label: row for row in review_rows() if row.review.note}
    assert "reference 55" in wrong["ICD"].review.note
    assert not any(row.review for row in load_published()["icd"].rows)
    assert sum(row.review is not None for row in load_published()["rm-pfi"].rows) == 2
    assert "GFL-type" in wrong["LD"].review.note
    assert wrong["LD"].detector == "GFL"


def test_review_rows_that_nobody_else_confirms_are_not_called_verified():
    alone = [row for row in review_rows() if len(row.sources) == 1]
    assert len(alone) > 20
    assert not any(row.verified for row in alone)


def test_stated_gains_equal_result_minus_baseline():
    ld = next(row for row in load_published()["ld"].rows if row.review and row.review.table == 1)
    assert ld.difference == {"AP": 2.0}
    d3etr = load_published()["d3etr"].rows[0]
    assert (d3etr.result, d3etr.difference) == ({}, {"AP": 7.8})


def test_a_published_gain_is_no_larger_than_any_paper_claims():
    gains = [record.gain["AP"] for record in published_records() if "AP" in record.gain]
    assert len(gains) > 150
    assert min(gains) > -3
    assert max(gains) < 9


def test_records_carry_setting_nodes_and_source():
    record = next(r for r in published_records() if r.method == "defeat" and r.dataset == "voc0712")
    assert record.origin == "published"
    assert record.bench == "voc0712 Faster R-CNN R101-FPN -> R50-FPN"
    assert record.nodes == ("cnn/neck", "cnn/backbone", "cnn/rpn-roi")
    assert record.metrics == {"voc_ap50": 81.47}
    assert record.gain == {"voc_ap50": 0.94}
    assert record.source == "review 2023, table 3"
    assert record.seed is None


def test_a_row_may_stand_elsewhere_than_its_method():
    places = {r.variant: r.nodes for r in published_records() if r.method == "pad"}
    assert places == {"on Mimic": ("cnn/rpn-roi",), "on FGFI": ("cnn/neck",)}


def test_plain_detectors_stand_in_the_baseline_file_only():
    records = published_records()
    assert all(record.is_baseline == (record.method == "baseline") for record in records)
    assert {row.role for row in load_published()["baseline"].rows} == {"teacher", "student", "plain"}


HEAD = "method: m\ntitle: T\nnodes: [cnn/neck]\nknowledge: [feature]\npairs: [homogeneous]\n"
ROW = "rows:\n  - {dataset: d, detector: D, family: dense, sources: [s], verified: true, result: {AP: 30.0}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD.replace("cnn/neck", "cnn/nek") + "rows: []", r'nodes\.0: .*no taxonomy node "cnn/nek"'),
        (HEAD + ROW + ", bogus: 1}", r"rows\.0\.bogus: Extra inputs"),
        (HEAD + ROW.replace("{AP: 30.0}", "{APP: 30.0}") + "}", r'no metric "APP"\. Did you mean "AP"'),
        (HEAD + ROW.replace("30.0", "130.0") + "}", "less than or equal to 100"),
        (HEAD + ROW.replace(", result: {AP: 30.0}", "") + "}", "needs a result or a gain"),
        (HEAD + ROW + ", gain: {AP: 1.0}}", "gain follows from result"),
        (HEAD + ROW.replace("[s]", "[]") + "}", "at least 1 item"),
        (HEAD + ROW + ", role: student}", "plain detectors stand in baseline"),
        (HEAD.replace("[cnn/neck]", "[]") + "rows: []", "at one node at least"),
        (HEAD.replace("method: m", "method: other") + "rows: []", "must be the name of the file"),
        ("- 1", "the file: "),
        ("a: [", "cannot be read"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path: Path, text: str, message: str):
    file = tmp_path / "m.yaml"
    file.write_text(text)
    with pytest.raises(KdflowError, match=message) as caught:
        read_published_file(file)
    assert str(file) in str(caught.value)


def test_an_empty_folder_is_refused(tmp_path: Path):
    with pytest.raises(KdflowError, match="no published results"):
        load_published(tmp_path)


def test_files_lie_in_one_folder_and_nothing_else_does():
    assert {path.suffix for path in (taxonomy_folder() / "published").iterdir()} == {".yaml"}
