"""Detectors that consist of given values: the ports a method reads are handed in, and no stage ever runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from kdflow.ports import STANDARD_PORTS, Call, Detector, PortSpec, Stage, standard_port
from kdflow.source import Source


@dataclass
class GivenDetector:
    """A detector whose ports are given values; see :class:`kdflow.ports.Detector`."""

    name: str
    family: str
    ports: Mapping[str, PortSpec]
    library: str = ""
    classes: tuple[str, ...] = ()
    model: nn.Module = field(default_factory=nn.Module)
    stages: Mapping[str, Stage] = field(default_factory=dict)
    calls: Mapping[str, Call] = field(default_factory=dict)
    losses: Mapping[str, str] = field(default_factory=dict)
    size_divisor: int = 1

    def predict(self, images: Tensor, image_sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
        """Given values predict nothing; raises RuntimeError."""
        raise RuntimeError("a detector made of given values cannot predict")

    def source(self) -> Source:
        """There is no model to rebuild; raises RuntimeError."""
        raise RuntimeError("a detector made of given values has no source")


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
    ports: dict[str, PortSpec] = dict(real.ports) if real else {}
    for reference in values:
        base, _, port = reference.partition(".")
        known = port in STANDARD_PORTS or port.rpartition(".")[0] in STANDARD_PORTS
        if base == owner and known:
            ports[port] = standard_port(
                port, real.family if real else family, "", port, strides=strides.get(reference, ())
            )
    if real is None:
        return GivenDetector("given values", family, ports)
    return GivenDetector(
        real.name,
        real.family,
        ports,
        real.library,
        real.classes,
        real.model,
        real.stages,
        real.calls,
        {},
        real.size_divisor,
    )
