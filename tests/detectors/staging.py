"""Runs a detector's stages in their declared order by hand, as a compiled plan would."""

from __future__ import annotations

from typing import Any

import torch

from kdflow.graph.runtime import stream_key
from kdflow.ports import BATCH_PORTS, Batch, Detector


def training_stages(detector: Detector) -> set[str]:
    """The stages that the detector's own losses need: what a training step runs."""
    waiting, needed = [detector.ports[port].stage for port in detector.losses.values()], set()
    while waiting:
        if (name := waiting.pop()) not in needed:
            needed.add(name)
            reads = detector.stages[name].reads.values()
            waiting += [detector.ports[port].stage for port in reads if port in detector.ports]
    return needed


def run_stages(
    detector: Detector, batch: Batch, *, seed: int | None = None, only: set[str] | None = None, **replaced: Any
) -> dict[str, Any]:
    """Every port's value.

    Args:
        detector: Whose stages.
        batch: What they start from.
        seed: Each stage draws from a stream of its own, so that a repeated one draws the same; none draws on and on.
        only: Names of the stages that run; none runs all.
        replaced: Values for ports (dots written as ``__``) in place of the detector's own.
    """
    values: dict[str, Any] = dict(batch.values())
    given = {name.replace("__", "."): value for name, value in replaced.items()}
    for name, stage in detector.stages.items():
        if only is not None and name not in only:
            continue
        inputs = {argument: values[port] for argument, port in stage.reads.items()}
        _seed(seed, name)
        result = stage.run(**inputs, **stage.options)
        missing = set(stage.gives) - set(result)
        assert not missing, f"{name} does not return {missing}"
        for port, spec in detector.ports.items():
            if spec.stage == name:
                values[port] = given.get(port, result[spec.key])
    return values


def _seed(seed: int | None, stage: str) -> None:
    if seed is not None:
        torch.manual_seed(stream_key(seed, 0, stage))


def run_call(
    detector: Detector,
    call: str,
    values: dict[str, Any],
    options: dict[str, Any] | None = None,
    *,
    seed: int | None = None,
    **inputs: Any,
) -> dict[str, Any]:
    """The outputs of a call: repeats exactly the stages that depend on what is replaced; ``values`` are the ports so far.

    An input of the call replaces a port, or (``stage:argument``) one argument of one stage.
    """
    described = detector.calls[call]
    targets = {described.inputs[name]: value for name, value in inputs.items()}
    replaced = {target: value for target, value in targets.items() if ":" not in target}
    arguments = {tuple(target.split(":")): value for target, value in targets.items() if ":" in target}
    settings: dict[str, dict[str, Any]] = {}
    for option, value in (options or {}).items():
        settings.setdefault(described.options[option], {})[option] = value
    found, touched = {**values, **replaced}, set(replaced)
    needed = _needed(detector, set(described.outputs.values()), set(replaced))
    for name, stage in detector.stages.items():
        own = {argument: value for (target, argument), value in arguments.items() if target == name}
        if name not in needed or not (own or name in settings or touched.intersection(stage.reads.values())):
            continue
        given = {argument: own[argument] if argument in own else found[port] for argument, port in stage.reads.items()}
        _seed(seed, name)
        result = stage.run(**given, **{**stage.options, **settings.get(name, {})})
        for port, spec in detector.ports.items():
            if spec.stage == name and port not in replaced:
                found[port] = result[spec.key]
                touched.add(port)
    return {name: found[port] for name, port in described.outputs.items()}


def _needed(detector: Detector, ports: set[str], cut: set[str]) -> set[str]:
    """Stages upstream of ``ports``, not beyond the ports in ``cut``."""
    stages: set[str] = set()
    open_ports = list(ports - cut)
    while open_ports:
        port = open_ports.pop()
        if port in BATCH_PORTS or (stage := detector.ports[port].stage) in stages:
            continue
        stages.add(stage)
        open_ports += [p for p in detector.stages[stage].reads.values() if p not in cut]
    return stages
