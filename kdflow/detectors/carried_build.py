"""Building the library's models: backbones, class names, weights, and the source of a model without kdflow."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdflow.detectors.backbones import TIMM, timm_indices
from kdflow.detectors.weights import fit, read_state
from kdflow.errors import UsageError, choices
from kdflow.ports import PortEntry

RESNETS: Mapping[str, dict[str, Any]] = {
    "resnet18": {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]},
    "resnet34": {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [3, 4, 6, 3]},
    "resnet50": {"layer_type": "bottleneck", "hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 6, 3]},
    "resnet101": {"layer_type": "bottleneck", "hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 23, 3]},
}
SYNONYMS: Mapping[str, str] = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}
"""VOC's names of classes that COCO has as well; published models use either."""


def backbone_config(
    backbone: str, widths: Sequence[int], depths: Sequence[int], stages: Sequence[int], model_type: str = "resnet"
) -> Any:
    """Configuration of a backbone, without weights.

    Args:
        backbone: ``resnet18`` ... ``resnet101`` (the library's own), or ``timm:<name>``.
        widths: Channels of the four stages; empty for the usual ones. The stem then gets the first width.
        depths: Blocks of the four stages; empty for the usual ones.
        stages: Stages handed on, 1 (stride 4) to 4 (stride 32).
        model_type: The library's ResNet variant.

    Raises:
        UsageError: The name is unknown, or widths are asked of a timm model.
    """
    from transformers import AutoConfig

    if backbone.startswith(TIMM):
        if widths or depths:
            raise UsageError(f'widths and depths belong to the library\'s own ResNets, not to "{backbone}"')
        name = backbone.removeprefix(TIMM)
        with torch.device("meta"):  # looks at the model without drawing weights
            indices = timm_indices(name, [s + 1 for s in stages])
        return AutoConfig.for_model("timm_backbone", backbone=name, use_pretrained_backbone=False, out_indices=[*indices])
    if backbone not in RESNETS:
        raise UsageError(f'no backbone "{backbone}".{choices(backbone, RESNETS)} or {TIMM}<name of a timm model>')
    settings = dict(RESNETS[backbone])
    settings |= {"hidden_sizes": [*widths], "embedding_size": widths[0]} if widths else {"embedding_size": 64}
    settings |= {"depths": [*depths]} if depths else {}
    return AutoConfig.for_model(model_type, out_features=[f"stage{s}" for s in stages], **settings)


def channels_of(config: Any, stages: Sequence[int]) -> list[int]:
    """Channels of the handed-on stages of a backbone configuration."""
    if config.model_type != "timm_backbone":
        return [config.hidden_sizes[s - 1] for s in stages]
    import timm

    model = timm.create_model(config.backbone, features_only=True, pretrained=False, out_indices=tuple(config.out_indices))
    return list(model.feature_info.channels())


def class_names(classes: Sequence[str]) -> dict[str, Any]:
    """Configuration entries that carry the class names."""
    return {"id2label": dict(enumerate(classes)), "label2id": {name: i for i, name in enumerate(classes)}}


def build_model(
    model_class: Any, settings: Mapping[str, Any], classes: Sequence[str], weights: str | None, attention: str
) -> tuple[Any, tuple[str, ...]]:
    """The library's model and its class names.

    Args:
        model_class: ``...ForObjectDetection``.
        settings: Keywords of its configuration class.
        classes: Class names in label order.
        weights: None for random weights; a file with a state dict, loaded strictly; a folder that ``save_pretrained`` wrote or a
            hub name, whose own configuration then counts instead of ``settings``. Where it knows all of ``classes`` by name, the
            model becomes a detector of these; its own names count otherwise.
        attention: ``sdpa`` or ``eager``.

    Raises:
        UsageError: The weights do not fit.
    """
    file = Path(weights).expanduser() if weights else None
    if weights is None or (file is not None and file.is_file()):
        model = fresh(model_class, settings, classes)
        if file is not None:
            load_file(model, file, classes)
        names = tuple(classes)
    else:
        model = pretrained(model_class, weights)
        model, names = of_classes(model, names_of(model.config, classes, weights), classes)
    if attention == "eager":
        model.set_attn_implementation({"": attention})  # the backbone has no attention to set
    return model, names


def build_hybrid(
    model_class: Any, settings: Mapping[str, Any], classes: Sequence[str], weights: str | None, attention: str, body: str | None
) -> tuple[Any, tuple[str, ...]]:
    """:func:`build_model` for detectors with a hybrid encoder; ``body`` names weights for their backbone alone."""
    model, names = build_model(model_class, settings, classes, weights, attention)
    if body:
        load_backbone(model.model.backbone.model, body)
    return model, names


def fresh(model_class: Any, settings: Mapping[str, Any], classes: Sequence[str]) -> Any:
    """An untrained model; UsageError with the library's words where the settings contradict each other."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        model = model_class(model_class.config_class(**settings, **class_names(classes)))
    except (ValueError, StrictDataclassError) as error:
        raise UsageError(f"{model_class.__name__} refuses these options: {error.__cause__ or error}") from error
    _open_branches(model)
    return model


def _open_branches(model: nn.Module) -> None:
    """Let constant BatchNorms scale by 1 where they would by 0.

    timm starts the last norm of a residual branch at 0; as a constant that would cut the branch off for good.
    """
    for module in model.modules():
        if type(module).__name__.endswith("FrozenBatchNorm2d"):
            weight = cast(Tensor, module.weight)
            if not weight.is_meta and not weight.any():
                weight.fill_(1.0)


def pretrained(model_class: Any, name: str) -> Any:
    """A model by folder or hub name; UsageError when there is none or it is of another architecture."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name)
        wanted = model_class.config_class.model_type
        if config.model_type != wanted:
            raise UsageError(f'"{name}" holds a model of type "{config.model_type}", this detector needs "{wanted}"')
        return model_class.from_pretrained(name)
    except OSError as error:
        raise UsageError(
            f'weights "{name}": no such file, no folder written by save_pretrained, and no model of this name could be fetched '
            f"({str(error).splitlines()[0]})"
        ) from error


def names_of(config: Any, classes: Sequence[str], source: str) -> tuple[str, ...]:
    """Class names of stored weights; the given ones where the weights carry no names of their own."""
    stored = tuple(str(config.id2label[i]) for i in range(config.num_labels))
    if not all(name == f"LABEL_{i}" for i, name in enumerate(stored)):
        return stored
    if len(classes) != len(stored):
        raise UsageError(
            f'"{source}" has {len(stored)} classes without names, but {len(classes)} are asked for: {", ".join(classes)}'
        )
    return tuple(classes)


def of_classes(model: Any, names: Sequence[str], classes: Sequence[str]) -> tuple[Any, tuple[str, ...]]:
    """The model with the class rows of ``classes`` alone, in their order; itself where it does not know all of them.

    Published COCO models often have a row per category id, gaps included, and some call a class by its older name.
    """
    known = [SYNONYMS.get(name, name) for name in names]
    wanted = [SYNONYMS.get(name, name) for name in classes]
    if tuple(names) == tuple(classes) or not set(wanted) <= set(known):
        return model, tuple(names)
    chosen = torch.tensor([known.index(name) for name in wanted])
    state = dict(model.state_dict())
    for key in class_rows(model):
        rows = state[key]
        background = torch.arange(len(known), len(rows))  # no object, or the padding of an embedding
        state[key] = rows[torch.cat([chosen, background])]
    config = copy.deepcopy(model.config)
    narrowed = type(model)(_named(config, classes))
    narrowed.load_state_dict(state, strict=True)
    return narrowed.train(model.training), tuple(classes)


def class_rows(model: Any) -> list[str]:
    """Entries of the state dict with a row per class."""
    wider = _named(copy.deepcopy(model.config), [str(i) for i in range(model.config.num_labels + 1)])
    with torch.device("meta"):
        other = type(model)(wider).state_dict()
    return [key for key, value in model.state_dict().items() if value.shape != other[key].shape]


def _named(config: Any, classes: Sequence[str]) -> Any:
    for key, value in class_names(classes).items():
        setattr(config, key, value)
    return config


def load_file(module: nn.Module, file: Path, classes: Sequence[str] = ()) -> None:
    """Load a state dict (``.safetensors``, else torch) strictly; UsageError names what does not fit."""
    fit(module, read_state(file), str(file), classes)


def parameters_of(
    model: nn.Module, modules: Iterable[tuple[nn.Module, Sequence[PortEntry]]]
) -> dict[str, Sequence[PortEntry]]:
    """What is said of modules, by the names that their parameters have within ``model``."""
    said = {id(p): entries for module, entries in modules for p in module.parameters()}
    return {name: said[id(p)] for name, p in model.named_parameters() if id(p) in said}


def load_backbone(module: nn.Module, source: str) -> None:
    """Give a backbone its weights: a state-dict file, or a folder or hub name of one of the library's backbones."""
    file = Path(source).expanduser()
    if file.is_file():
        load_file(module, file)
        return
    donor_class: Any = type(module)
    if not hasattr(donor_class, "from_pretrained"):
        raise UsageError(
            f'pretrained_backbone "{source}": no such file, and a timm backbone takes no folder or hub name'
        )
    try:
        module.load_state_dict(donor_class.from_pretrained(source).state_dict())
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f'pretrained_backbone "{source}": {str(error).splitlines()[0]}') from error
