"""Carries families over that still declare stages and ports apart."""

from __future__ import annotations

import inspect
import typing
from dataclasses import replace
from typing import Any

from pydantic import create_model

from kdflow.options import Options
from kdflow.ports import CLASS_BOXES, CLASS_LABELS, CLASS_SCORES, Classes, Detector, DetectorFamily, Port, Stage

TINY: dict[str, Any] = {}
KNOWN: dict[str, Classes] = {
    "roi.logits": CLASS_SCORES,
    "roi.deltas": CLASS_BOXES,
    "head.logits": CLASS_SCORES,
    "decoder.logits": CLASS_SCORES,
    "roi.labels": CLASS_LABELS,
    "assign.labels": CLASS_LABELS,
}


def PortSpec(kind: Any, stage: str, key: str, **details: Any) -> Any:  # noqa: N802
    return {"kind": kind, "stage": stage, "key": key, **details}


def standard_port(name: str, family: str, stage: str, key: str, **details: Any) -> Any:
    return {"stage": stage, "key": key, **details}


def joined(stages: Any, ports: Any) -> dict[str, Stage]:
    found = {}
    for name, stage in stages.items():
        gives: dict[str, Any] = {}
        for port, details in ports.items():
            if details["stage"] == name:
                own = {k: v for k, v in details.items() if k not in ("stage", "key")}
                made = Port(port, **own, classes=KNOWN.get(port))
                gives[details["key"]] = (*gives.get(details["key"], ()), made)
        found[name] = replace(stage, gives=gives)
    return found


def family(build: Any, sort: str, library: str, licence: str, doc: str, **more: Any) -> DetectorFamily:
    hints = typing.get_type_hints(build, include_extras=True)
    fields: dict[str, Any] = {
        key: (hints[key], p.default) for key, p in inspect.signature(build).parameters.items() if key != "classes"
    }
    options = create_model(build.__name__, __base__=Options, **fields)

    def make(classes: Any, given: Any) -> Detector:
        return build(classes, **{key: getattr(given, key) for key in given.model_fields_set})

    more.setdefault("ragged", not doc.startswith(("RT-DETR", "D-FINE")))
    return DetectorFamily(make, options, sort, library, licence, doc, **more)
