"""The harness on the smallest pair; nothing here depends on how long anything takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import peer, step, variants
from benchmarks.variants import Case, DisagreementError
from kdflow.engine.machine import Machine, open_machine

TINY = str(Path(__file__).parents[1] / "benches" / "tiny.yaml")
OTHERS = {"student_only", "hand_full", "hand_cut", "plan", "kdflow"}


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with open_machine("cpu") as opened:
        yield opened


@pytest.fixture(autouse=True)
def without_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchdistill is an extra; where it is installed, its own test uses it."""
    monkeypatch.setattr(peer, "missing", lambda: "not in this test")


def build(method: str, machine: Machine) -> Case:
    return variants.build_case(TINY, method, machine, size=64)


@pytest.mark.parametrize("method", ["fitnet", "fgd"])
def test_all_variants_compute_the_same(method: str, machine: Machine) -> None:
    case = build(method, machine)
    differences = variants.check_agreement(case)
    assert set(differences) == OTHERS
    assert case.left_out == {"torchdistill": "not in this test", "torchdistill_eval": "not in this test"}


def test_channels_innermost_are_one_more_variant(machine: Machine) -> None:
    case = variants.build_case(TINY, "fitnet", machine, size=64, channels_last=True)
    assert set(variants.check_agreement(case)) == OTHERS | {"kdflow_channels_last"}
    assert case.variants["kdflow_channels_last"].parameters[0].is_contiguous(memory_format=torch.channels_last)


def test_a_variant_that_computes_something_else_is_not_timed(machine: Machine) -> None:
    case = build("fitnet", machine)
    right = case.variants["plan"].losses
    case.variants["plan"].losses = lambda sample: {k: v * (1 + 1e-3 * k.startswith("kd/")) for k, v in right(sample).items()}
    with pytest.raises(DisagreementError, match=r"kd/hint is .* in plan"):
        variants.check_agreement(case)


def test_what_is_not_a_number_never_passes_for_agreement(machine: Machine) -> None:
    case = build("fitnet", machine)
    for variant in case.variants.values():
        variant.losses = lambda sample, own=variant.losses: {k: v * float("nan") for k, v in own(sample).items()}
    with pytest.raises(DisagreementError, match="is not finite"):
        variants.check_agreement(case)


def test_a_variant_without_the_terms_is_not_timed(machine: Machine) -> None:
    case = build("fitnet", machine)
    right = case.variants["plan"].losses
    case.variants["plan"].losses = lambda sample: {k: v for k, v in right(sample).items() if k.startswith("det/")}
    with pytest.raises(DisagreementError, match="plan has the terms"):
        variants.check_agreement(case)


def test_steps_train_every_variant(machine: Machine) -> None:
    case = build("fitnet", machine)
    before = {name: [p.detach().clone() for p in v.parameters] for name, v in case.variants.items()}
    for number in range(2):
        for take in case.steps().values():
            take(number)
    for name, variant in case.variants.items():
        assert any(not torch.equal(old, new) for old, new in zip(before[name], variant.parameters)), name


@pytest.mark.parametrize(
    ("pair", "method", "reason"),
    [(TINY, "defeat", "for defeat, only for fitnet, pkd, fgd"), ("shapes-rt-detr", "fitnet", "torchvision's pyramid")],
)
def test_without_a_hand_written_loop_the_plan_is_the_reference(pair: str, method: str, reason: str, machine: Machine) -> None:
    case = variants.build_case(pair, method, machine, size=64)
    assert set(case.variants) == {"student_only", "plan", "kdflow"}
    assert set(case.left_out) == {"hand_full", "hand_cut", "torchdistill", "torchdistill_eval"}
    assert reason in case.left_out["hand_cut"]
    assert variants.check_agreement(case)["kdflow"] < 1e-5
    for take in case.steps().values():
        take(0)


def test_the_command_says_in_words_what_it_refuses() -> None:
    with pytest.raises(SystemExit, match="no method"):
        step.main(["--pair", TINY, "--method", "defeet"])


def test_the_command_prints_ratios_with_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    step.main(["--pair", TINY, "--method", "fitnet", "--size", "64", "--rounds", "3", "--warmup", "1", "--json"])
    result = json.loads(capsys.readouterr().out)
    for name in ("kdflow_vs_hand_cut", "kdflow_vs_hand_full", "kdflow_vs_student_only"):
        found = result["ratios"][name]
        assert 0 < found["low"] <= found["median"] <= found["high"]
    assert "kdflow_vs_torchdistill" not in result["ratios"]
    assert result["left_out"]["torchdistill"] == "not in this test"
    assert "teacher.roi.head" in result["teacher_stages_pruned"]
    assert result["machine"]["torch"] == torch.__version__
    text = step.as_text(result)
    assert "kdflow_vs_hand_cut" in text
    assert "left out: torchdistill: not in this test" in text
