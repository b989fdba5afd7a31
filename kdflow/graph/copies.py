"""Copies of a detector's stages: ``modules: {assistant: {copy: teacher.roi}}``."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import nn

from kdflow.ports import BATCH_PORTS, Call, Detector, Stage


class CopiedStages(nn.ModuleDict):
    """Stages with weights of their own, by stage name; no part of the student, so never exported.

    Args:
        stages: Stage name -> module.
        trainable: False keeps the weights as they are, and the stages in eval mode.
    """

    def __init__(self, stages: Mapping[str, nn.Module], trainable: bool) -> None:
        super().__init__({name.replace(".", "_"): module for name, module in stages.items()})
        self.trainable = trainable
        self.requires_grad_(trainable)

    def only(self, stages: Iterable[str]) -> CopiedStages:
        """The same modules without those of other stages."""
        return CopiedStages({name: self[name.replace(".", "_")] for name in stages}, self.trainable)

    def train(self, mode: bool = True) -> CopiedStages:
        """Training mode where they train."""
        return super().train(mode and self.trainable)


def copy_stages(detector: Detector, call: Call, trainable: bool) -> dict[str, tuple[Stage, CopiedStages]]:
    """Copies of all stages that a call may run: stage name -> the stage around its copy, and all of them.

    What stages share is shared by their copies. Gradient reaches the copied weights if they are trainable, and the inputs in
    any case.

    Args:
        detector: Whose stages.
        call: Which of them: those that its outputs need from its inputs on.
        trainable: As in :class:`CopiedStages`.
    """
    names = stages_of(detector, call)
    runs: dict[str, nn.Module] = copy.deepcopy({name: detector.stages[name].run for name in names})
    copied = CopiedStages(runs, trainable)
    return {name: (replace(detector.stages[name], run=runs[name]), copied) for name in names}


def stages_of(detector: Detector, call: Call) -> list[str]:
    """The stages between a call's inputs and its outputs, in the detector's order."""
    ports = {target for target in call.inputs.values() if ":" not in target}
    places = {target for target in call.inputs.values() if ":" in target}
    entered = {place.partition(":")[0] for place in places} | set(call.options.values())
    found: dict[str, bool] = {}

    def visit(stage: str) -> bool:
        if stage not in found:
            reached = stage in entered
            for argument, port in detector.stages[stage].reads.items():
                if port in ports:
                    reached = True
                elif port not in BATCH_PORTS and f"{stage}:{argument}" not in places:
                    reached = visit(detector.ports[port].stage) or reached
            found[stage] = reached
        return found[stage]

    made = {detector.ports[port].stage for port in call.outputs.values()}
    for stage in made:
        visit(stage)
    return [name for name in detector.stages if found.get(name) or name in made]
