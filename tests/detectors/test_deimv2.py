"""DEIMv2: both encoders, one matching for all layers, and a criterion that does not wait for the device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kdflow.detectors.deimv2_union import union_of
from kdflow.detectors.rt_loss import PairLoss
from kdflow.errors import UsageError
from kdflow.ports import DETECTORS
from tests.detectors.hf_tiny import assert_same_gradients, both, build, make_batch, own_losses
from tests.detectors.staging import run_stages

LITE: dict[str, Any] = {
    "backbone": "hgnetv2-atto",
    "widths": (),
    "depths": (),
    "outputs": (3,),
    "encoder": "lite",
    "share_boxes": True,
    "gateway": False,
    "points": (4, 2),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "without denoising": {"denoising": 0},
    "two layers": {"decoder_layers": 2},
    "own pairs alone": {"dense_matching": False},
    "wider encoder": {"encoder_width": 64},
    "two maps": {"outputs": (3, 4), "points": (6, 3)},
    "lite": LITE,
    "lite without denoising": {**LITE, "denoising": 0},
    "frozen norms": {"norm": "frozen"},
    "no gamma": {"gamma": 1.0},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("counts", [(2, 1), (5, 0), (0, 0)])
def test_variants_equal_the_library_bit_for_bit(options: dict[str, Any], counts: tuple[int, ...]) -> None:
    detector = build("deimv2", **options)
    values, output, library = both(detector, make_batch(counts), training=True)
    own = own_losses(detector, values)
    assert [key for key in own if key in output.loss_dict] == list(output.loss_dict)
    assert not {key for key in own if "_dn_" not in key} - set(output.loss_dict)
    for key, value in output.loss_dict.items():
        assert torch.equal(own[key], value), key
    sum(own.values()).backward()
    output.loss.backward()
    assert_same_gradients(detector.model, library)


@pytest.mark.parametrize("options", [{}, LITE], ids=["hybrid", "lite"])
def test_evaluation_joins_the_pairs_of_the_layers_that_the_library_computes(options: dict[str, Any]) -> None:
    detector = build("deimv2", **options)
    with torch.no_grad():
        values, output, _ = both(detector, make_batch((3, 2)), training=False)
    own = own_losses(detector, values)
    assert len(output.loss_dict) == 6
    for (key, value), name in zip(output.loss_dict.items(), ("", "", "", "_aux_2", "_aux_2", "_aux_2"), strict=True):
        assert torch.equal(own[key.replace("_aux_0", "") + name if name else key], value), key


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_equal_distributions_have_nothing_to_teach(spread: float) -> None:
    """A fresh model's box heads say the same in every layer: the library's term is then exactly 0."""
    detector = build("deimv2", uneven=False)
    for head in detector.model.model.decoder.bbox_embed[1:]:
        head.layers[-1].weight.data.normal_(std=spread)
    values, output, _ = both(detector, make_batch((2, 1)), training=True)
    own = own_losses(detector, values)
    taught = [key for key in own if "loss_ddf" in key]
    assert all(torch.equal(own[key], output.loss_dict[key]) for key in taught)
    assert any(own[key] > 0 for key in taught) == (spread > 0)


def test_a_union_has_one_object_per_query_the_commonest() -> None:
    pairs = torch.tensor([[3, 0], [1, 1], [3, 1], [3, 1], [1, 1], [7, 0]])
    assert union_of(pairs).tolist() == [[1, 1], [3, 1], [7, 0]]
    assert union_of(pairs[:0]).shape == (0, 2)


def test_boxes_are_compared_on_the_union_and_scores_on_own_pairs() -> None:
    detector = build("deimv2", denoising=0)
    detector.model.train()
    values = run_stages(detector, make_batch((4, 3)))
    joined = values["match.union"]
    layers = [
        values["match.indices"][-1],
        *values["match.first"],
        *values["match.indices"][:-2],
        *values["match.proposals"],
    ]
    for image, (queries, _) in enumerate(joined.pairs):
        assert set(queries.tolist()) == {query for layer in layers for query in layer[image][0].tolist()}
    assert joined.pair == (joined.pairs, sum(len(queries) for queries, _ in joined.pairs))
    assert joined.pair[1] > 7
    assert "match.union" not in build("deimv2", dense_matching=False).ports


WAITING = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "_unique2", "unique_dim", "masked_select")


class Reads(TorchDispatchMode):
    """Counts what a graphics card would have to wait for: scalars and sizes that depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masked = name in ("index", "index_put_", "index_put") and any(
            isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        self.seen[name] += name in WAITING or masked
        return func(*args, **(kwargs or {}))


@contextmanager
def counted() -> Iterator[Counter[str]]:
    with Reads() as mode:
        yield mode.seen


@pytest.mark.parametrize(("name", "number"), [("deimv2", 4), ("d-fine", 4), ("rt-detr", 3)])
def test_the_criterion_never_waits(name: str, number: int) -> None:
    """Of its stages the matching copies the costs to the host, and DEIMv2's union the pairs; no loss reads a value."""
    detector = build(name)
    detector.model.train()
    batch = make_batch((3, 2))
    values = run_stages(detector, batch)
    losses = [name for name in detector.stages if name.startswith("criterion")]
    assert len(losses) == number
    for name in losses:
        stage = detector.stages[name]
        with counted() as seen:
            stage.run(**{argument: values[port] for argument, port in stage.reads.items()})
        assert not +seen, (name, +seen)


def test_the_counter_sees_the_waits_of_the_librarys_criterion() -> None:
    detector = build("deimv2", denoising=0)
    with counted() as seen:
        both(detector, make_batch((3, 2)), training=True)
    assert seen["_local_scalar_dense"] > 50
    assert seen["index"] > 0


def test_strides_and_maps_are_those_of_the_chosen_stages() -> None:
    for options, strides, memory in (({}, (8, 16, 32), (8, 16, 32)), (LITE, (16,), (16, 32))):
        ports = build("deimv2", **options).ports
        assert (ports["backbone"].strides, ports["encoder.inputs"].strides) == (strides, strides)
        assert (ports["neck"].strides, ports["encoder.memory"].strides) == (memory, memory)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"encoder": "lite"}, "lite encoder reads one stage"),
        ({"outputs": (2, 4)}, "neighbouring stages of 1 to 4"),
        ({"outputs": (4, 5)}, "neighbouring stages of 1 to 4"),
        ({"points": (4, 2)}, "points: 3 maps reach the decoder"),
        ({"backbone": "hgnetv2-pico", "widths": (), "depths": ()}, '"hgnetv2-pico" has 3 stages'),
        ({"backbone": "hgnetv2-b9"}, 'Did you mean "hgnetv2-b0"'),
    ],
)
def test_options_that_do_not_fit_each_other_are_refused_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build("deimv2", **options)


SIZES: dict[str, tuple[dict[str, Any], float]] = {
    "n": ({}, 3.62),
    "pico": ({**LITE, "backbone": "hgnetv2-pico", "d_model": 112, "ffn": 320, "queries": 200}, 1.55),
    "femto": ({**LITE, "backbone": "hgnetv2-femto", "d_model": 96, "ffn": 256, "queries": 150}, 0.99),
    "atto": ({**LITE, "backbone": "hgnetv2-atto", "d_model": 64, "ffn": 160, "queries": 100}, 0.51),
}


@pytest.mark.parametrize(("options", "millions"), SIZES.values(), ids=SIZES)
def test_the_defaults_and_the_lite_sizes_have_the_published_parameters(
    options: dict[str, Any], millions: float
) -> None:
    detector = DETECTORS.get("deimv2").build(tuple(f"class {i}" for i in range(80)), **options)
    assert sum(p.numel() for p in detector.model.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_a_criterion_holds_no_tensors_to_move() -> None:
    criterion = PairLoss(build("deimv2").model.config, "mal")
    assert not [value for value in vars(criterion).values() if isinstance(value, torch.Tensor)]
