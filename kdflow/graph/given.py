"""Detectors that consist of given values: the ports a method reads are handed in, and no stage ever runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from kdflow.ports import Detector, Port, Stage
from kdflow.standard_ports import standard_of


def given_detector(name: str, family: str, ports: Iterable[Port], **more: Any) -> Detector:
    """A detector whose ports are given values.

    Args:
        name: What messages call it.
        family: ``two-stage``, ``dense`` or ``transformer``.
        ports: What is given.
        more: Further fields of :class:`kdflow.ports.Detector`; stages and calls that given values can be handed to.
    """
    stages = {**more.pop("stages", {}), "given": Stage(nn.Identity(), {}, {port.name: port for port in ports})}
    return Detector(name, family, "", (), more.pop("model", nn.Module()), stages, **more)


def given_detectors(
    values: Mapping[str, Any],
    families: Mapping[str, str],
    strides: Mapping[str, tuple[int, ...]],
    real: Mapping[str, Detector],
) -> dict[str, Detector]:
    """Owner -> detector offering the given ports, beside the ports and calls of a real one where there is one.

    Args:
        values: Reference -> value; those that start with ``student.`` or an owner in ``families`` become ports.
        families: Owner -> family; ``two-stage`` where unsaid.
        strides: Reference -> strides of a given pyramid.
        real: Owner -> detector whose stages may be called.
    """
    owners = dict.fromkeys(["student", "teacher", *families, *real])
    return {
        owner: _detector(owner, values, families.get(owner, "two-stage"), strides, real.get(owner)) for owner in owners
    }


def _detector(
    owner: str, values: Mapping[str, Any], family: str, strides: Mapping[str, tuple[int, ...]], real: Detector | None
) -> Detector:
    ports = []
    for reference in values:
        base, _, port = reference.partition(".")
        if base == owner and standard_of(port):
            ports.append(Port(port, strides=strides.get(reference, ())))
    if real is None:
        return given_detector("given values", family, ports)
    given = given_detector(real.name, real.family, ports, stages=real.stages)
    return replace(real, stages=given.stages, losses={})
