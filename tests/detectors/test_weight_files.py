"""Files of weights as people have them: wrapped, prefixed, with objects beside the tensors, or no weights at all."""

from __future__ import annotations

import argparse
import logging
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from kdflow.detectors.backbones import create_timm, timm_indices
from kdflow.detectors.weight_files import read_state
from kdflow.detectors.weights import fit
from kdflow.errors import UsageError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1234\n"


def state(value: float = 1.0) -> dict[str, Tensor]:
    return {"weight": torch.full((2, 2), value), "bias": torch.zeros(2)}


def saved(content: Any, file: Path, **options: Any) -> Path:
    torch.save(content, file, **options)
    return file


def refusal(file: Path) -> str:
    with pytest.raises(UsageError) as raised:
        read_state(file)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("entry", ["state_dict", "model_state_dict", "model", "ema", "ema.module"])
def test_the_only_state_dict_of_a_checkpoint_is_taken_and_said(entry: str, tmp_path: Path, caplog: Any) -> None:
    content: Any = state()
    for key in reversed(entry.split(".")):
        content = {key: content}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
    file = saved({**content, "optimizer": optimizer, "epoch": 3}, tmp_path / "w.pth")
    assert read_state(file)["weight"].tolist() == [[1, 1], [1, 1]]
    assert f"the state dict is taken from its entry {entry}" in caplog.text


def test_a_plain_state_dict_is_taken_without_a_word(tmp_path: Path, caplog: Any) -> None:
    read_state(saved(state(), tmp_path / "w.pth"))
    assert caplog.text == ""


@pytest.mark.parametrize("averaged", ["ema", "ema.module", "model_ema", "ema_state_dict", "state_dict_ema"])
def test_of_several_state_dicts_the_averaged_one_is_taken_and_said(averaged: str, tmp_path: Path, caplog: Any) -> None:
    content: Any = state(2)
    for key in reversed(averaged.split(".")):
        content = {key: content}
    file = saved({"model": state(), **content, "epoch": 3}, tmp_path / "w.pth")
    assert read_state(file)["weight"][0, 0] == 2
    assert f"is taken from its entry {averaged}, the averaged one of model (2 tensors), {averaged} (2 tensors)" in caplog.text


def test_an_entry_is_chosen_by_its_keys(tmp_path: Path, caplog: Any) -> None:
    file = saved({"model": state(), "ema": {"module": state(2)}, "epoch": 3}, tmp_path / "w.pth")
    assert read_state(file, entry="model")["weight"][0, 0] == 1
    assert read_state(file, entry="ema.module")["weight"][0, 0] == 2
    assert caplog.text == ""
    with pytest.raises(UsageError, match=r"weights_entry: emma is no entry .* model \(2 tensors\), ema\.module \(2 tensors\)"):
        read_state(file, entry="emma")
    with pytest.raises(UsageError, match="is a state dict itself"):
        read_state(saved(state(), tmp_path / "plain.pth"), entry="model")


def test_of_several_state_dicts_without_an_averaged_one_none_is_chosen(tmp_path: Path) -> None:
    message = refusal(saved({"generator": state(), "detector": {"net": state(2)}, "epoch": 3}, tmp_path / "w.pth"))
    assert "holds 2 state dicts: generator (2 tensors), detector.net (2 tensors)" in message
    assert message.endswith("Next: weights_entry: generator or weights_entry: detector.net")


def run_line(message: str) -> None:
    """The line of Python that a message gives must be right."""
    exec(message.partition("in Python: ")[2])


@pytest.mark.parametrize("legacy", [False, True])
def test_objects_beside_the_tensors_are_told_and_never_loaded(legacy: bool, tmp_path: Path) -> None:
    content = {"state_dict": state(), "args": argparse.Namespace(lr=0.1), "epoch": 3}
    file = saved(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    message = refusal(file)
    assert "its entries: state_dict (2 tensors), args (argparse.Namespace), epoch (int)" in message
    run_line(message)
    assert read_state(tmp_path / "w-state.pt").keys() == state().keys()


@pytest.mark.parametrize("entry", ["", "model"])
def test_a_pickled_model_is_told_with_the_line_that_cuts_its_state_out(entry: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    message = refusal(saved({entry: model, "epoch": 1} if entry else model, tmp_path / "w.pt"))
    assert "torch.nn.modules.container.Sequential" in message
    run_line(message)
    assert read_state(tmp_path / "w-state.pt").keys() == model.state_dict().keys()


def test_reading_what_a_pickle_holds_runs_none_of_it(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    message = refusal(saved({"state_dict": state(), "trap": Trap()}, tmp_path / "w.pth"))
    assert "trap (posix.mkdir)" in message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", ["pt", "pth", "safetensors"])
def test_what_is_no_file_of_tensors_is_called_by_its_name(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"w.{suffix}"
    for text, words in {
        POINTER: "is a Git LFS pointer, not the weights it stands for. Next: git lfs pull",
        "\n<!DOCTYPE html><html>": "is a web page",
        '{"weight_map": {}}': "is JSON text",
        "": "is empty",
        "some words": "cannot be read as a file of plain tensors",
    }.items():
        file.write_text(text)
        assert words in refusal(file), text


def test_the_content_says_how_a_file_is_read_not_its_ending(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "w.pt")
    saved(state(), tmp_path / "w.safetensors")
    for name in ("w.pt", "w.safetensors"):
        assert read_state(tmp_path / name).keys() == state().keys()


def test_entries_that_are_no_state_dict_are_listed(tmp_path: Path) -> None:
    assert "none of its entries is one; it holds step (int), state (dict)" in refusal(
        saved({"step": 3, "state": {}}, tmp_path / "w.pth")
    )
    assert "but a list" in refusal(saved([1, 2], tmp_path / "w.pth"))


def averaged(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"n_averaged": torch.tensor(3), **{f"module.{key}": value for key, value in found.items()}}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "n_averaged"])
def test_names_without_the_prefix_of_a_wrapper(prefix: str, caplog: Any) -> None:
    own, donor = nn.Linear(2, 2), nn.Linear(2, 2)
    wrapped = {f"{prefix}{key}": value for key, value in donor.state_dict().items()}
    fit(own, averaged(donor.state_dict()) if prefix == "n_averaged" else wrapped, "w.pth", ("a",))
    assert torch.equal(own.weight, donor.weight)
    assert "is left out before every name" in caplog.text


def test_averages_of_torch_fit_the_model_that_they_average() -> None:
    own, donor = nn.Linear(2, 2), nn.Linear(2, 2)
    fit(own, AveragedModel(donor).state_dict(), "w.pth", ("a",))
    assert torch.equal(own.weight, donor.weight)


def test_a_model_whose_own_names_have_the_prefix_keeps_it(caplog: Any) -> None:
    own = nn.ModuleDict({"module": nn.Linear(2, 2)})
    fit(own, own.state_dict(), "w.pth", ("a",))
    assert caplog.text == ""
    with pytest.raises(UsageError, match=r"2 are unknown \(module.weight, other.bias\)"):
        fit(nn.Linear(2, 2), {"module.weight": torch.zeros(2, 2), "other.bias": torch.zeros(2)}, "w.pth", ("a",))


def test_a_timm_backbone_takes_a_checkpoint_by_the_same_rules(tmp_path: Path) -> None:
    donor = create_timm("test_resnet", (1, 2), None)
    entries = {f"module.{key}": value for key, value in donor.state_dict().items()}
    made = create_timm("test_resnet", (1, 2), str(saved({"state_dict": entries, "epoch": 1}, tmp_path / "w.pth")))
    assert all(torch.equal(value, donor.state_dict()[key]) for key, value in made.state_dict().items())
    assert "state_dict" not in made.pretrained_cfg
    with pytest.raises(UsageError, match="kdflow does not choose among them") as raised:
        create_timm("test_resnet", (1,), str(saved({"model": entries, "other": entries}, tmp_path / "w.pth")))
    run_line(str(raised.value))
    assert read_state(tmp_path / "w-state.pt").keys() == entries.keys()


def test_a_backbone_with_channels_last_is_refused_for_that_and_not_for_its_strides() -> None:
    with pytest.raises(UsageError, match=r"gives its maps as NHWC \(channels last\)") as raised:
        timm_indices("swin_tiny_patch4_window7_224", (2, 3, 4, 5))
    assert "strides" not in str(raised.value)


few = settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
checkpoint = st.recursive(
    st.sampled_from([1, 0.5, None, "x", b"x", argparse.Namespace(a=1), torch.Size([1])]) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=5,
)


def look_at(file: Path) -> None:
    """Reading a file gives a state dict or words of kdflow."""
    try:
        found = read_state(file)
    except UsageError as error:
        str(error).encode()
    else:
        assert all(isinstance(value, Tensor) for value in found.values())


@few
@given(content=st.binary(max_size=200), suffix=st.sampled_from(["pt", "safetensors"]))
@example(content=b"\x80\x02" + b"(" * 10_000 + b".", suffix="pt")
@example(content=b"\x80\x04\x96" + b"\xff" * 8, suffix="pt")
@example(content=b"\x08" + b"\x00" * 7 + b'{"a": 1}', suffix="safetensors")
@example(content=b"PK\x05\x06" + b"\x00" * 18, suffix="pt")
@example(content=b"\xff" * 7 + b"\x7f{", suffix="safetensors")
def test_any_bytes_as_a_file_of_weights(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"w.{suffix}"
    file.write_bytes(content)
    look_at(file)


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Written once: a pickle of the same content may be some bytes longer the next time."""
    folder = tmp_path_factory.mktemp("whole")
    content = {"model": state(), "args": argparse.Namespace(lr=1)}
    save_file(state(), folder / "safetensors")
    for form in ("zip", "legacy"):
        saved(content, folder / form, _use_new_zipfile_serialization=form == "zip")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@few
@given(data=st.data(), form=st.sampled_from(["zip", "legacy", "safetensors"]))
def test_any_damage_to_a_file_of_weights(
    tmp_path: Path, whole_files: dict[str, bytes], data: st.DataObject, form: str
) -> None:
    whole = bytearray(whole_files[form])
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path / "w.pt"
    file.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    look_at(file)


@few
@given(content=checkpoint, form=st.sampled_from(["torch", "pickle"]))
def test_any_values_in_a_file_of_weights(tmp_path: Path, content: Any, form: str) -> None:
    file = tmp_path / "w.pt"
    if form == "torch":
        saved(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    look_at(file)


def test_words_are_warnings_so_that_they_are_seen(tmp_path: Path, caplog: Any) -> None:
    read_state(saved({"model": state()}, tmp_path / "w.pt"))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
