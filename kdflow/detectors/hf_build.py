"""From the library's models to detectors: backbones, class names, weights, prediction, and the source without kdflow."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdflow.detectors.backbones import TIMM, timm_indices
from kdflow.detectors.hf_loss import SetLoss
from kdflow.detectors.hf_matching import together
from kdflow.detectors.hf_options import TINY, DecoderOptions, TransformerOptions
from kdflow.detectors.hf_parts import Postprocess
from kdflow.detectors.hf_stages import criterion_call, detection_stage, loss_stages, network_of
from kdflow.detectors.hgnets import HGNETS, hgnet_config
from kdflow.detectors.normalize import IMAGENET_MEAN, IMAGENET_STD
from kdflow.detectors.torchvision_parts import evaluating
from kdflow.detectors.weight_files import read_state
from kdflow.detectors.weights import fit, no_names
from kdflow.errors import UsageError, choices
from kdflow.ports import Call, Detector, DetectorFamily, ImageSizes, PortEntry, Stage
from kdflow.source import Source

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


def backbone_config(options: TransformerOptions, stages: Sequence[int], model_type: str = "resnet") -> Any:
    """Configuration of a backbone, without weights.

    Args:
        options: Their backbone, widths and depths; the stem gets the first width.
        stages: Stages handed on, 1 (stride 4) to 4 (stride 32).
        model_type: The library's ResNet variant.

    Raises:
        UsageError: The name is unknown, or widths are asked of a timm model.
    """
    from transformers import AutoConfig

    backbone, widths, depths = options.backbone, options.widths, options.depths
    if backbone.startswith(TIMM):
        if widths or depths:
            raise UsageError(f'widths and depths belong to the library\'s own backbones, not to "{backbone}"')
        name = backbone.removeprefix(TIMM)
        with torch.device("meta"):  # looks at the model without drawing weights
            indices = timm_indices(name, [s + 1 for s in stages])
        return AutoConfig.for_model(
            "timm_backbone", backbone=name, use_pretrained_backbone=False, out_indices=[*indices]
        )
    if backbone in HGNETS:
        return hgnet_config(backbone, widths, depths, stages)
    if backbone not in RESNETS:
        known = [*RESNETS, *HGNETS]
        raise UsageError(f'no backbone "{backbone}".{choices(backbone, known)} or {TIMM}<name of a timm model>')
    settings = dict(RESNETS[backbone])
    settings |= {"hidden_sizes": [*widths], "embedding_size": widths[0]} if widths else {"embedding_size": 64}
    settings |= {"depths": [*depths]} if depths else {}
    return AutoConfig.for_model(model_type, out_features=[f"stage{s}" for s in stages], **settings)


def channels_of(config: Any, stages: Sequence[int]) -> list[int]:
    """Channels of the handed-on stages of a backbone configuration."""
    if config.model_type != "timm_backbone":
        return [config.hidden_sizes[s - 1] for s in stages]
    import timm

    model = timm.create_model(
        config.backbone, features_only=True, pretrained=False, out_indices=tuple(config.out_indices)
    )
    return list(model.feature_info.channels())


def class_names(classes: Sequence[str]) -> dict[str, Any]:
    """Configuration entries that carry the class names."""
    return {"id2label": dict(enumerate(classes)), "label2id": {name: i for i, name in enumerate(classes)}}


def build_model(
    model_class: Any, options: DecoderOptions, classes: Sequence[str], backbone: Any, **settings: Any
) -> tuple[Any, tuple[str, ...]]:
    """The library's model and its class names.

    Args:
        model_class: ``...ForObjectDetection``.
        options: Of the family. ``weights`` none: random ones; a file with a state dict: loaded strictly; a folder that
            ``save_pretrained`` wrote or a hub name: its own configuration counts instead of the options. Where it knows all of
            ``classes`` by name, the model becomes a detector of these; its own names count otherwise.
        classes: Class names in label order.
        backbone: See :func:`backbone_config`.
        settings: Keywords of its configuration class beside those of the options.

    Raises:
        UsageError: The weights do not fit, or the library refuses the options.
    """
    weights, names = options.weights, tuple(classes)
    file = Path(weights).expanduser() if weights else None
    if weights is None or (file is not None and file.is_file()):
        model = fresh(model_class, {"backbone_config": backbone, **options.keywords(), **settings}, classes)
        spread_queries(model, getattr(options, "query_spread", None))
        if file is not None:
            load_file(model, file, classes)
    else:
        model = pretrained(model_class, weights)
        model, names = of_classes(model, names_of(model.config, classes, weights), classes)
    if options.attention == "eager":
        model.set_attn_implementation({"": "eager"})  # the backbone has no attention to set
    if options.pretrained_backbone:
        load_backbone(network_of(model.model), options.pretrained_backbone)
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


def spread_queries(model: nn.Module, deviation: float | None) -> None:
    """Draw the learned queries anew, unless ``deviation`` is None; UsageError where there are none.

    The library starts them so close together that those which are boxes (DAB-DETR) are all the middle of the image.
    """
    if deviation is None:
        return
    learned = ("query_position_embeddings", "query_refpoint_embeddings")
    found = [module for name, module in model.named_modules() if name.endswith(learned)]
    if not found:
        raise UsageError("query_spread: this model takes its queries from the encoder and learns none")
    for module in found:
        nn.init.normal_(cast(nn.Embedding, module).weight, std=deviation)


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
    for key in first_rows(model):
        state[key] = state[key][: len(chosen)]
    config = copy.deepcopy(model.config)
    narrowed = type(model)(_named(config, classes))
    narrowed.load_state_dict(state, strict=True)
    return narrowed.train(model.training), tuple(classes)


def class_rows(model: Any) -> list[str]:
    """Entries of the state dict with a row per class, in the order of the classes."""
    return [key for key in _counted_rows(model) if key not in first_rows(model)]


def class_modules(detector: Detector) -> list[str]:
    """Paths of the modules that give class scores; an embedding of class numbers gives none."""
    model = detector.model
    paths = dict.fromkeys(key.rpartition(".")[0] for key in class_rows(model))
    later = [path for path, _ in model.named_modules() if re.search(r"\.lqe_layers\.\d+$", path)]  # change D-FINE's scores
    return [*later, *(path for path in paths if not isinstance(model.get_submodule(path), nn.Embedding))]


def first_rows(model: Any) -> list[str]:
    """Entries with as many rows as classes, of which the first alone counts, whatever the first class is.

    Two-stage Deformable DETR chooses its queries by the first score of every encoder token.
    """
    config = model.config
    if not getattr(config, "two_stage", False):
        return []
    return [key for key in model.state_dict() if f"class_embed.{config.decoder_layers}." in key]


def _counted_rows(model: Any) -> list[str]:
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


def transformers_family(
    make: Callable[[tuple[str, ...], Any], Detector],
    options: type[DecoderOptions],
    doc: str,
    ragged: bool = True,
    **tiny: Any,
) -> DetectorFamily:
    """A family of the transformers library; ``tiny`` are options of its tiny form beside :data:`TINY`."""
    known = {key: value for key, value in TINY.items() if key in options.model_fields}
    return DetectorFamily(
        make, options, "transformer", "transformers", "Apache-2.0", doc, tiny={**known, **tiny}, ragged=ragged
    )


def transformers_detector(
    options: DecoderOptions,
    classes: Sequence[str],
    model: Any,
    stages: Mapping[str, Stage],
    loss: SetLoss,
    postprocess: Postprocess,
    calls: Callable[[Mapping[str, Stage]], Mapping[str, Call]],
    *,
    matching: Mapping[str, Stage] | None = None,
    losses: Mapping[str, Stage] | None = None,
    size_divisor: int = 1,
    optional: Iterable[tuple[nn.Module, Sequence[PortEntry]]] = (),
) -> Detector:
    """A model of the transformers library as stages; its losses are all ports below ``losses``.

    Args:
        options: The family's.
        classes: Class names in label order.
        model: The library's model.
        stages: From images to predictions, among them ``normalize`` (a :class:`kdflow.detectors.hf_parts.Prepare`).
        loss: The set loss of the decoder layers.
        postprocess: Makes detections of the last layer.
        calls: What a method may run again of the stages, beside the criterion.
        matching: Targets, matching and criterion where they are not the usual :func:`loss_stages`.
        losses: Stages of further losses.
        size_divisor: Canvas sides are multiples of it.
        optional: Modules that the losses never reach, with what a method may compare to train them.
    """
    matching = matching or loss_stages(loss, model.config.decoder_layers)
    stages = together({**stages, **matching, **(losses or {}), **detection_stage(postprocess)})
    terms = [port.name for stage in stages.values() for _, port in stage.ports if port.name.startswith("losses.")]
    return Detector(
        options.title(),
        "transformer",
        "transformers",
        tuple(classes),
        model,
        stages,
        {**calls(stages), "criterion": criterion_call(matching["criterion"])},
        {term.removeprefix("losses."): term for term in terms},
        size_divisor,
        parameters_of(model, optional),
        predictors=class_modules,
        inference=predict,
        writer=source_of,
        loader=no_names,
    )


def predict(detector: Detector, images: Tensor, image_sizes: ImageSizes) -> list[dict[str, Tensor]]:
    """Detections by the library's own inference and post-processing; see :meth:`kdflow.ports.Detector.predict`."""
    normalize: Any = detector.stages["normalize"].run
    postprocess: Any = detector.stages["postprocess"].run
    with evaluating(detector.model), torch.no_grad():
        seen = normalize(images, image_sizes)
        outputs = detector.model(pixel_values=seen["pixels"], pixel_mask=seen["mask"])
        found: list[dict[str, Tensor]] = postprocess.decode(outputs, image_sizes)
        return found


def source_of(detector: Detector) -> Source:
    """Python that makes an untrained model of the same architecture; load the weights strictly."""
    prepare: Any = detector.stages["normalize"].run
    postprocess: Any = detector.stages["postprocess"].run
    config: Any = detector.model.config
    name, kind = type(detector.model).__name__, type(config).__name__
    settings = json.loads(config.to_json_string(use_diff=True))
    dropped = ("transformers_version", "architectures", "dtype", "_name_or_path")
    return Source(
        f"{name} of the transformers library",
        "transformers",
        imports=(f"from transformers import {kind}, {name}",),
        lines=(f"model = {name}({kind}.from_dict(CONFIG))",),
        constants={"CONFIG": {key: value for key, value in settings.items() if key not in dropped}},
        detect={
            "processor": postprocess.processor,
            "options": postprocess.options,
            "statistics": None if prepare.normalize is None else (IMAGENET_MEAN, IMAGENET_STD),
        },
    )
