"""A trained run: shown pictures, measured again, exported, looked at."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import kdflow
from kdflow.cli.main import main
from kdflow.data.formats import open_data
from kdflow.errors import UsageError
from kdflow.experiment.run import RunResult, run
from kdflow.student.pictures import read
from kdflow.tracking.store import open_client
from kdflow.urls import sqlite_url
from kdflow.using.export import formats
from kdflow.using.export.formats import export
from kdflow.using.export.onnx_file import Whole
from kdflow.using.finder import Finder
from kdflow.using.forms import open_finder
from kdflow.using.measure import measure
from kdflow.using.saved import reopen
from tests.using.paths import LEARNED


def split_of(trained: RunResult, name: str) -> Any:
    bench = reopen(trained.folder).bench
    return open_data(bench.data.format, bench.data.options).splits[name]


def test_the_student_has_learned_something(trained: RunResult) -> None:
    assert trained.metrics["AP50"] > 5, "else nothing below is shown"


def test_a_run_measured_again_gives_its_own_numbers(trained: RunResult) -> None:
    again = measure(trained.folder, device="cpu", notify=lambda _: None)
    assert again.metrics == pytest.approx(dict(trained.metrics), abs=1e-9)
    assert again.classes.keys() == trained.classes.keys()
    val = measure(trained.folder, split="val", device="cpu", notify=lambda _: None)
    assert val.metrics["AP"] == pytest.approx(trained.validation["AP"], abs=1e-9)


def test_weights_of_a_student_are_measured_on_a_bench(trained: RunResult, tmp_path: Path) -> None:
    shutil.copy(str(trained.student_path), tmp_path / "mine.pt")
    found = measure(tmp_path / "mine.pt", bench=LEARNED, device="cpu", notify=lambda _: None)
    assert found.metrics == pytest.approx(dict(trained.metrics), abs=1e-9)
    with pytest.raises(UsageError, match="name the bench"):
        measure(tmp_path / "mine.pt", device="cpu")


def test_the_teacher_of_a_run_is_measured_with_the_weights_that_it_taught_with(trained: RunResult) -> None:
    found = measure(trained.folder, owner="teacher", device="cpu", notify=lambda _: None)
    assert found.metrics == pytest.approx(trained.teachers["teacher"]["metrics"], abs=1e-9)
    with pytest.raises(UsageError, match='no teacher "nobody"'):
        measure(trained.folder, owner="nobody", device="cpu")


def test_predictions_are_drawn_and_written(trained: RunResult, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, file in enumerate(split_of(trained, "test").annotations.files[:3]):
        Image.open(file).save(folder / f"{number} <b>.png")
    found = kdflow.predict(trained.folder, folder, output=tmp_path / "out", threshold=0.05, device="cpu")
    assert [Path(one.image).name for one in found] == ["0 <b>.png", "1 <b>.png", "2 <b>.png"]
    assert sum(len(one.detections) for one in found) > 0
    written = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert written == [one.as_json() for one in found]
    for one in found:
        assert all(d.score > 0.05 for d in one.detections)
        with Image.open(str(one.drawn)) as drawn:
            assert drawn.size == (one.width, one.height)


def test_an_exported_folder_predicts_by_its_own_code(trained: RunResult, tmp_path: Path) -> None:
    for name in ("student.py", "student.pt"):
        shutil.copy(Path(trained.folder) / name, tmp_path / name)
    picture = read(split_of(trained, "test").annotations.files[0])
    own, other = open_finder(trained.folder).find(picture), open_finder(tmp_path).find(picture)
    assert torch.equal(own["labels"], other["labels"])
    torch.testing.assert_close(own["boxes"].float(), other["boxes"].float(), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere", "TEXT"), "no run lies there"),
        (("RUN", "nowhere.png"), "no such file"),
        (("RUN", "EMPTY"), "no image and no video"),
        (("RUN", "TEXT"), "cannot be opened"),
        (("RUN", "FILM"), "pip install av"),
        (("RUN", "TEXT", "--threshold", "3"), "score in 0..1"),
    ],
)
def test_what_cannot_be_shown_is_a_mistake_in_words(
    trained: RunResult, tmp_path: Path, capsys: Any, words: tuple[str, ...], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("note.png", "film.mp4"):
        (tmp_path / name).write_text("no picture")
    names = {
        "RUN": trained.folder,
        "EMPTY": str(tmp_path / "empty"),
        "TEXT": str(tmp_path / "note.png"),
        "FILM": str(tmp_path / "film.mp4"),
    }
    assert main(["predict", *(names.get(word, word) for word in words), "--device", "cpu"]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def onnx_file(trained: RunResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student in ONNX, kept in MLflow too; exporting takes long, so there is one."""
    folder = tmp_path_factory.mktemp("onnx") / "out"
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("kdflow.cli.export.note", said.append)
        assert main(["export", trained.folder, "--format", "onnx", "-o", str(folder), "--mlflow"]) == 0
    assert any("takes any number of pictures at once, 8 bits, any size" in words for words in said)
    (measured,) = [words for words in said if "test AP" in words]
    assert re.fullmatch(rf"  test AP [\d.]+ through the export, {trained.metrics['AP']:.2f} of the run", measured)
    return folder / "model.onnx"


def test_ap_through_the_onnx_file_is_the_runs(trained: RunResult, onnx_file: Path, capsys: Any) -> None:
    assert main(["eval", str(onnx_file), "--bench", str(LEARNED), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]
    assert found["AP"] == pytest.approx(trained.metrics["AP"], abs=0.1)
    assert found["AP50"] == pytest.approx(trained.metrics["AP50"], abs=0.1)


def test_an_onnx_file_is_shown_pictures_without_its_run(trained: RunResult, onnx_file: Path, capsys: Any) -> None:
    picture = split_of(trained, "test").annotations.files[0]
    assert main(["predict", str(onnx_file), picture, "--threshold", "0.02", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["detections"]
    (own,) = kdflow.predict(trained.folder, picture, threshold=0.02, device="cpu")
    assert [one["class"] for one in found][:3] == [one.name for one in own.detections][:3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "FILE"], "the data to measure on are those of a bench"),
        (["eval", "FILE", "--owner", "teacher", "--bench", str(LEARNED)], "no run with a teacher"),
        (["predict", "FILE", "."], "no image and no video"),
        (["eval", "OTHER", "--bench", str(LEARNED)], "cannot be opened as an ONNX model"),
    ],
)
def test_an_export_that_cannot_be_used_is_a_mistake_in_words(
    onnx_file: Path, tmp_path: Path, capsys: Any, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.onnx").write_bytes(b"no model")
    names = {"FILE": str(onnx_file), "OTHER": str(tmp_path / "other.onnx")}
    assert main([*(names.get(word, word) for word in words), "--device", "cpu"]) == 2
    assert message in capsys.readouterr().err


def test_an_onnx_file_takes_many_pictures_at_once(trained: RunResult, onnx_file: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx_file), providers=["CPUExecutionProvider"])
    pictures = torch.stack([read(file) for file in split_of(trained, "test").annotations.files[:3]])
    boxes, scores, labels, picture = session.run(None, {"pictures": pictures.numpy()})
    assert len(boxes) == len(scores) == len(labels) == len(picture) > 0
    own = open_finder(trained.folder)
    for number in range(3):
        alone = own.find(pictures[number])
        torch.testing.assert_close(torch.from_numpy(scores[picture == number]), alone["scores"], rtol=1e-3, atol=1e-4)


def test_an_export_is_kept_in_mlflow_as_a_model(trained: RunResult, onnx_file: Path) -> None:
    assert onnx_file.is_file()
    client = open_client(sqlite_url(Path(trained.folder).parents[1] / "mlflow.db"))
    record = client.get_run(trained.run_id)
    (model,) = [client.get_logged_model(one.model_id) for one in record.outputs.model_outputs]
    assert model.name == "out"
    assert record.info.status == "FINISHED"


def test_the_teacher_leaves_the_same_way(trained: RunResult, tmp_path: Path) -> None:
    done = export(trained.folder, "torch", tmp_path / "out", owner="teacher")
    assert done.own == pytest.approx(trained.teachers["teacher"]["metrics"]["AP"])
    assert done.ap == pytest.approx(done.own, abs=0.1)


def test_a_threshold_lies_inside_an_onnx_file(trained: RunResult) -> None:
    saved = reopen(trained.folder)
    picture = read(split_of(trained, "test").annotations.files[0])
    with torch.no_grad():
        _, all_scores, _, _ = Whole(saved.student(), saved.pictures, 0.0, None).eval()(picture[None])
        _, scores, _, _ = Whole(saved.student(), saved.pictures, 0.2, None).eval()(picture[None])
    assert torch.equal(scores, all_scores[all_scores > 0.2])
    assert 0 < len(scores) < len(all_scores)


@pytest.mark.parametrize("format", ["torch", "safetensors"])
def test_weights_leave_with_code_that_finds_the_same(trained: RunResult, tmp_path: Path, format: str) -> None:
    done = export(trained.folder, format, tmp_path / "out")
    assert done.agreement.holds
    assert set(done.files) == {"student.py", f"student.{'pt' if format == 'torch' else format}"}
    assert done.ap == pytest.approx(trained.metrics["AP"], abs=0.1)
    again = measure(tmp_path / "out", bench=LEARNED, device="cpu", notify=lambda _: None)
    assert again.metrics["AP"] == pytest.approx(done.ap, abs=1e-9)


def test_a_form_that_finds_otherwise_is_refused_and_leaves_nothing(
    trained: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(order: Any) -> Any:
        finder, notes = formats._torch(order)
        moved = Finder(
            finder.classes, finder.upright, lambda image: {**(f := finder.look(image)), "boxes": f["boxes"] + 3}
        )
        return moved, notes

    monkeypatch.setattr(formats, "FORMATS", {"torch": shifted})
    with pytest.raises(UsageError, match=r"refused: .* have no counterpart"):
        export(trained.folder, "torch", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_form_that_a_library_does_not_know_is_refused_in_words(
    trained: RunResult, tmp_path: Path, capsys: Any
) -> None:
    assert main(["export", trained.folder, "--format", "hf", "-o", str(tmp_path / "out")]) == 2
    assert "fcos is a model of torchvision, which from_pretrained does not know" in capsys.readouterr().err


class Reader(HTMLParser):
    """Text and elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not (name in ("src", "href") and str(value).startswith("http")), value

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_shows_all_sides_without_network(trained: RunResult, tmp_path: Path) -> None:
    plain = run("baseline", bench=LEARNED, output=Path(trained.folder).parents[1], device="cpu", notify=lambda _: None)
    file = kdflow.look(trained.folder, tmp_path / "look.html", node="student.neck", threshold=0.1, most=2)
    page = Reader(file.read_text(encoding="utf-8"))
    text = " ".join(page.words)
    for words in (
        "Worst pictures",
        "What the teacher finds and the student misses",
        "What distillation gained",
        "ground truth",
        "plain student",
        "student.neck",
        "Precision over recall",
        "What objects were taken for",
    ):
        assert words in text, words
    assert f"{plain.metrics['AP']:.2f}" in text
    assert f"{trained.teachers['teacher']['metrics']['AP']:.2f}" in text
    assert "script" not in page.tags
    assert page.tags.count("img") > 4


def test_chosen_pictures_are_shown_and_unknown_ones_and_nodes_are_mistakes(trained: RunResult, tmp_path: Path) -> None:
    name = split_of(trained, "test").annotations.names[2]
    file = kdflow.look(trained.folder, tmp_path / "look.html", images=[name])
    assert "Chosen pictures" in file.read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="no picture of the test split"):
        kdflow.look(trained.folder, tmp_path / "x.html", images=["nowhere.png"])
    with pytest.raises(UsageError, match='no node "neckk"'):
        kdflow.look(trained.folder, tmp_path / "x.html", node="neckk")
    assert not (tmp_path / "x.html").exists()
