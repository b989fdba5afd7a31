"""Stages that the dense detectors share: towers, predictors, decoding, description of an assignment, losses, detections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdflow.detectors.loss_terms import LossTerms
from kdflow.detectors.torchvision_parts import Held, empty_detections, library_targets
from kdflow.errors import UsageError
from kdflow.ports import ImageSizes


class Tower(nn.Module):
    """The blocks of one head branch, each split before its activation.

    Args:
        layers: The library's blocks: a list of sequences that end with an activation, or one flat sequence of all layers.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        blocks = (
            [list(block.children()) for block in layers]
            if isinstance(layers[0], nn.Sequential)
            else _split(list(layers))
        )
        self.layers = nn.ModuleList(nn.Sequential(*block[:-1]) for block in blocks)
        self.activations = nn.ModuleList(block[-1] for block in blocks)
        for activation in self.activations:
            # In place, the activation would overwrite the value that a method taps.
            if isinstance(activation, nn.ReLU):
                activation.inplace = False

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self.layers)

    def forward(self, features: Tensor, level: int) -> list[Tensor]:
        """Output of each block before its activation, then that of the last one after it; alike on every level."""
        del level
        found: list[Tensor] = []
        for layers, activation in zip(self.layers, self.activations):
            found.append(layers(features))
            features = activation(found[-1])
        return [*found, features]

    def resume(self, features: Tensor, block: int | None, level: int) -> Tensor:
        """The rest of the tower from ``block`` on, whose output before the activation is given; alike on every level.

        Args:
            features: (B, C, H, W); block 0 stands for the tower's input, None for its output.
            block: Number of finished blocks.
            level: Where the features come from.
        """
        del level
        if block is None:
            return features
        if block > 0:
            features = self.activations[block - 1](features)
        for layers, activation in list(zip(self.layers, self.activations))[block:]:
            features = activation(layers(features))
        return features


class LevelTower(nn.Module):
    """One head branch with a tower of its own for every level.

    Args:
        towers: From the finest level on.
    """

    def __init__(self, towers: Iterable[Tower]) -> None:
        super().__init__()
        self.towers = nn.ModuleList(towers)

    @property
    def blocks(self) -> int:
        """Blocks per tower."""
        return self.of(0).blocks

    def of(self, level: int) -> Tower:
        """The tower of a level."""
        return self.towers[level]  # type: ignore[return-value]

    def forward(self, features: Tensor, level: int) -> list[Tensor]:
        """See :meth:`Tower.forward`."""
        return self.of(level)(features, level)

    def resume(self, features: Tensor, block: int | None, level: int) -> Tensor:
        """See :meth:`Tower.resume`."""
        return self.of(level).resume(features, block, level)


def _split(layers: list[nn.Module]) -> list[list[nn.Module]]:
    """A flat list of layers, cut behind every activation."""
    blocks: list[list[nn.Module]] = [[]]
    for layer in layers:
        blocks[-1].append(layer)
        if isinstance(layer, nn.ReLU):
            blocks.append([])
    return blocks[:-1]


class Towers(nn.Module):
    """Both towers on every level."""

    def __init__(self, classes: Tower | LevelTower, boxes: Tower | LevelTower) -> None:
        super().__init__()
        self.classes = classes
        self.boxes = boxes

    @property
    def blocks(self) -> int:
        """Blocks per tower."""
        return self.classes.blocks

    @property
    def outputs(self) -> tuple[str, ...]:
        """Keys of the result."""
        numbered = [f"{branch}.{i + 1}" for branch in ("cls", "box") for i in range(self.blocks)]
        return ("cls", "box", *numbered)

    def forward(self, maps: list[Tensor]) -> dict[str, Any]:
        """``cls`` and ``box`` after the last block; ``cls.1`` ... before each block's activation. All per level."""
        found: dict[str, Any] = {}
        for branch, tower in (("cls", self.classes), ("box", self.boxes)):
            per_block = list(zip(*(tower(m, level) for level, m in enumerate(maps))))
            found[branch] = list(per_block[-1])
            found |= {f"{branch}.{i + 1}": list(levels) for i, levels in enumerate(per_block[:-1])}
        return found


def library_towers(head: Any) -> Towers:
    """The towers of a torchvision head."""
    return Towers(Tower(head.classification_head.conv), Tower(head.regression_head.conv))


class Tail(nn.Module):
    """The predictors on the towers' outputs, or the rest of the towers on foreign features.

    Args:
        towers: The towers.
        predict: Predicts one level: (class features, box features, level) -> values by name; owns the predictors.
        outputs: Names of these values.
    """

    def __init__(self, towers: Towers, predict: nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.towers = towers
        self.predict = predict
        self.outputs = outputs

    def forward(self, cls: list[Tensor], box: list[Tensor], from_block: int | None = None) -> dict[str, Any]:
        """Values per level.

        Args:
            cls: Class-tower features per level.
            box: Box-tower features per level.
            from_block: Both are outputs of this block before its activation (0: inputs of the tower); None: the towers' results.

        Raises:
            UsageError: The towers have no such block.
        """
        if from_block is not None and not 0 <= from_block <= self.towers.blocks:
            raise UsageError(
                f"from_block: the towers have blocks 1 to {self.towers.blocks} (0: their input), not {from_block}"
            )
        found: dict[str, list[Tensor]] = {name: [] for name in self.outputs}
        for level, (ours, theirs) in enumerate(zip(cls, box)):
            classes = self.towers.classes.resume(ours, from_block, level)
            boxes = self.towers.boxes.resume(theirs, from_block, level)
            for name, value in self.predict(classes, boxes, level).items():
                found[name].append(value)
        return dict(found)


class HeadPredict(Held):
    """The predictors of a head that runs them itself, on one level; the owner is the head."""

    def __init__(self, owner: nn.Module) -> None:
        super().__init__(owner)
        before = ("stems", "cls_convs", "reg_convs")
        self.layers = nn.ModuleList(layer for name, layer in owner.named_children() if name not in before)

    def forward(self, classes: Tensor, boxes: Tensor, level: int) -> dict[str, Tensor]:
        """The head's outputs."""
        found: dict[str, Tensor] = self.owner.predict(classes, boxes, level)
        return found


class Priors(nn.Module):
    """One prior per cell.

    Args:
        make: (maps, strides) -> (H*W, 4) xyxy per level.
        strides: Pixels per cell, per level.
    """

    def __init__(self, make: Callable[[list[Tensor], tuple[int, ...]], list[Tensor]], strides: tuple[int, ...]) -> None:
        super().__init__()
        self.make, self.strides = make, strides

    def forward(self, maps: list[Tensor]) -> dict[str, Any]:
        """``anchors`` (H*W, 4) xyxy per level."""
        return {"anchors": self.make(list(maps), self.strides)}


class Decode(nn.Module):
    """Boxes of every place.

    Args:
        decode: (deltas (N, 4), priors (N, 4)) -> boxes (N, 4).
    """

    def __init__(self, decode: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.decode = decode

    def forward(self, values: list[Tensor], priors: list[Tensor]) -> dict[str, Any]:
        """``boxes`` (B, H*W*A, 4) xyxy per level, not clipped, from deltas of the same shape."""
        found = []
        for own, places in zip(values, priors):
            flat = self.decode(own.reshape(-1, 4), places.repeat(own.shape[0], 1))
            found.append(flat.view_as(own))
        return {"boxes": found}


class Assign(Held):
    """Which object each place answers for, by the library's own rule.

    Args:
        owner: The model; handed to ``match``.
        match: (model, priors per level, boxes per image) -> (B, R) int64: object, -1 background, -2 not trained on.
    """

    outputs = ("indices", "positive", "weights", "matched_boxes")

    def __init__(self, owner: nn.Module, match: Callable[[Any, list[Tensor], list[Tensor]], Tensor]) -> None:
        super().__init__(owner)
        self.match = match

    def forward(self, priors: list[Tensor], boxes: list[Tensor]) -> dict[str, Any]:
        """Per level ``indices``, ``positive``, ``weights`` (B, R) and ``matched_boxes`` (B, R, 4), zeros where none."""
        return describe(self.match(self.owner, priors, boxes), [len(p) for p in priors], boxes)

    def infer(self, priors: list[Tensor], boxes: list[Tensor]) -> dict[str, Any]:
        """One value per place."""
        return empty_assignment(priors, len(boxes))


def describe(
    indices: Tensor, counts: Sequence[int], boxes: list[Tensor], weights: Tensor | None = None
) -> dict[str, Any]:
    """An assignment as ports, split into levels.

    Args:
        indices: (B, R) object of each place, -1 background, -2 not trained on.
        counts: Places per level.
        boxes: Objects per image.
        weights: (B, R); None gives 0 to places that are not trained on and 1 to all others.
    """
    padded = [torch.cat([own, own.new_zeros(1, 4)]) for own in boxes]
    matched = torch.stack([p[torch.where(i >= 0, i, len(p) - 1)] for p, i in zip(padded, indices)])
    found = {
        "indices": indices,
        "positive": indices >= 0,
        "matched_boxes": matched,
        "weights": (indices != -2).to(matched.dtype) if weights is None else weights,
    }
    return {name: list(value.split(list(counts), dim=1)) for name, value in found.items()}


def empty_assignment(priors: list[Tensor], images: int) -> dict[str, Any]:
    """Values of the right shapes for :func:`describe`."""

    def each(*shape: int, dtype: torch.dtype | None = None) -> list[Tensor]:
        return [p.new_empty((images, len(p), *shape), dtype=dtype) for p in priors]

    return {
        "indices": each(dtype=torch.long),
        "positive": each(dtype=torch.bool),
        "weights": each(),
        "matched_boxes": each(4),
    }


class AssignedLabels(nn.Module):
    """Classes of the objects that places answer for.

    Args:
        classes: Number of classes; also the label of the background.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, indices: list[Tensor], labels: list[Tensor]) -> dict[str, Any]:
        """``labels`` (B, R) per level: 0-based class, background K, -1 not trained on."""
        # Negative indices read the two entries appended here: [-1] background, [-2] not trained on.
        known = [torch.cat([own, own.new_tensor([-1, self.classes])]) for own in labels]
        return {"labels": [torch.stack([k[i] for k, i in zip(known, level)]) for level in indices]}

    def infer(self, indices: list[Tensor], labels: list[Tensor]) -> dict[str, Any]:
        """One label per place."""
        del labels
        return {"labels": [torch.empty_like(level) for level in indices]}


class OnOutputs(Held):
    """Something of the library's that reads the head's outputs.

    Args:
        owner: What computes it; handed to ``compute``.
        compute: The library's function.
        library: Port value -> name of the library's head output.
        offset: What the library adds to labels.
        prepare: Applied to the value of an output before the library sees it.
    """

    def __init__(
        self,
        owner: nn.Module,
        compute: Callable[..., Any],
        library: dict[str, str],
        offset: int = 0,
        prepare: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    ) -> None:
        super().__init__(owner)
        self.compute, self.library, self.offset, self.prepare = compute, library, offset, prepare or {}

    def named(self, outputs: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
        """Outputs per level under the library's names and in its layout."""
        return {
            name: [self.prepare.get(key, lambda v: v)(v) for v in outputs[key]] for key, name in self.library.items()
        }


class DenseLoss(LossTerms, OnOutputs):
    """The library's own losses on an assignment made before.

    Args:
        owner: See :class:`OnOutputs`.
        names: Loss terms in the library's order.
        compute: (owner, targets, outputs over all levels, priors per image, indices per image) -> losses by name.
        rest: See :class:`OnOutputs`.
    """

    def __init__(
        self, owner: nn.Module, names: tuple[str, ...], compute: Callable[..., dict[str, Tensor]], *rest: Any, **named: Any
    ) -> None:
        super().__init__(owner, compute, *rest, **named)
        self.names = names

    def forward(
        self,
        priors: list[Tensor],
        indices: list[Tensor],
        boxes: list[Tensor],
        labels: list[Tensor],
        **outputs: list[Tensor],
    ) -> dict[str, Any]:
        """The library's loss terms, scalars."""
        joined = join_outputs(outputs, self.library, self.prepare)
        places = [torch.cat(priors)] * len(boxes)
        targets = library_targets(boxes, labels, self.offset)
        return self.compute(self.owner, targets, joined, places, list(torch.cat(indices, dim=1)))


def join_outputs(
    outputs: dict[str, list[Tensor]], names: dict[str, str], prepare: Mapping[str, Callable[[Tensor], Tensor]]
) -> dict[str, Tensor]:
    """Outputs of all levels in one tensor each, under the library's names and in its layout."""
    return {name: prepare.get(key, lambda v: v)(torch.cat(outputs[key], dim=1)) for key, name in names.items()}


class DenseDetect(OnOutputs):
    """The library's own post-processing of head outputs: (model, outputs per level, priors per level, sizes) -> detections."""

    def forward(self, priors: list[Tensor], image_sizes: ImageSizes, **outputs: list[Tensor]) -> dict[str, Any]:
        """``detections``: per image boxes, scores and 0-based labels, best first."""
        found = self.compute(self.owner, self.named(outputs), priors, image_sizes)
        return {"detections": [{**one, "labels": one["labels"] - self.offset} for one in found]}

    def infer(self, priors: list[Tensor], image_sizes: ImageSizes, **outputs: Any) -> dict[str, Any]:
        """As many detections as are kept at most."""
        del outputs
        return {"detections": empty_detections(priors[0], self.owner.detections_per_img, len(image_sizes))}


def per_level(
    model: Any, outputs: dict[str, list[Tensor]], priors: list[Tensor], sizes: ImageSizes
) -> list[dict[str, Tensor]]:
    """Post-processing of models that keep levels apart (RetinaNet, FCOS)."""
    return model.postprocess_detections(outputs, [list(priors)] * len(sizes), sizes)


class Capture:
    """Stands in for a library head: hands back what the library's matching hands to the head's loss."""

    def compute_loss(self, targets: Any, outputs: Any, priors: Any, indices: list[Tensor]) -> Tensor:
        """The matched indices, (B, R)."""
        del targets, outputs, priors
        return torch.stack(indices)


def head_loss(head: Any, targets: Any, outputs: Any, priors: Any, indices: Any) -> dict[str, Tensor]:
    """The losses of a library head."""
    return head.compute_loss(targets, outputs, priors, indices)
