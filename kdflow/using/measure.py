"""A detector measured again: that of a run, weights in the student of a bench, or what was exported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdflow.engine.evaluate import Evaluation
from kdflow.errors import UsageError
from kdflow.experiment.build import fill_weights
from kdflow.experiment.feed import Feed
from kdflow.experiment.find import find_bench
from kdflow.experiment.findings import write_detections
from kdflow.experiment.reading import read_bench
from kdflow.experiment.session import Session, open_session
from kdflow.experiment.setup import check_bench
from kdflow.folders import expand
from kdflow.ports import Detector
from kdflow.spec.bench import Bench
from kdflow.using.forms import is_export, open_export
from kdflow.using.judged import judged
from kdflow.using.saved import STUDENT, reopen, run_folder

SPLITS = ("test", "val")


def measure(
    place: str | Path,
    *,
    bench: str | Path | None = None,
    split: str = "test",
    owner: str = "student",
    device: str = "auto",
    overrides: Mapping[str, Any] | None = None,
    detections: str | Path | None = None,
    notify: Callable[[str], None] = print,
) -> Evaluation:
    """Metrics of a trained detector on a split, in percent, with those of every class.

    Args:
        place: A run's folder or name; an ONNX file or another export; else weights for the bench's student: a file, or a
            model folder or name that its library knows.
        bench: Name or file; needed for weights, none takes the run's own, for an export the bench of the run that it lies in.
        split: ``test`` or ``val``.
        owner: ``student``, or the name of a teacher of the run.
        device: ``auto``, ``cpu`` or ``cuda``.
        overrides: Dotted path of the bench -> value.
        detections: File for the detections, a COCO document with scores.
        notify: Receives what is worth knowing of the data.

    Raises:
        UsageError: Neither a run nor a bench, or weights that do not fit.
        SpecError, DataError: Faults of bench or data.
    """
    if split not in SPLITS:
        raise UsageError(f"there is no split {split!r} to measure on, only {' and '.join(SPLITS)}")
    with open_session(device) as session:
        if run_folder(place) is None and is_export(place) and expand(place).name != STUDENT:
            chosen = _bench_of_export(expand(place), bench, owner, dict(overrides or {}))
            source = session.source(chosen.data)
            found = judged(open_export(place, session.machine.device), source.splits[split], chosen.evaluation)
        else:
            detector, feed = _opened(place, bench, owner, dict(overrides or {}), session)
            source = feed.source
            session.inspect(feed, notify)
            detector.model.to(session.machine.device)
            found = feed.examine(detector, split)
        if detections is not None:
            write_detections(Path(detections), found, source.splits[split].coco)
    return found


def _bench_of_export(place: Path, bench: str | Path | None, owner: str, overrides: dict[str, Any]) -> Bench:
    """The bench that an export is measured on: the one named, or that of the run whose folder it lies in."""
    if owner != "student":
        raise UsageError(f"{place} is an export of one detector, and no run with a {owner}")
    if bench is not None:
        return read_bench(find_bench(bench), overrides)[0]
    runs = [folder for folder in (place.parent, place.parent.parent) if run_folder(folder) is not None]
    if not runs:
        raise UsageError(f"{place}: the data to measure on are those of a bench (--bench)")
    if overrides:
        raise UsageError("--set changes a bench: name it with --bench")
    return reopen(runs[0]).bench


def _opened(
    place: str | Path, bench: str | Path | None, owner: str, overrides: dict[str, Any], session: Session
) -> tuple[Detector, Feed]:
    if run_folder(place) is not None:
        saved = reopen(place)
        detector = saved.student() if owner == "student" else saved.teacher(owner)
        chosen = saved.bench
        if bench is not None:
            chosen, _ = read_bench(find_bench(bench), overrides)
        elif overrides:
            raise UsageError("--set changes a bench: name it with --bench")
        return detector, _feed(chosen, saved.pictures.divisor, session)
    if bench is None:
        raise UsageError(f"{place}: no run lies there; for weights, name the bench whose student they are (--bench)")
    if owner != "student":
        raise UsageError(f"{place}: no run lies there, so there is no {owner} of it")
    chosen, detectors = check_bench(find_bench(bench), {**overrides, "student.weights": str(place)})
    fill_weights(chosen.student, detectors["student"])
    return detectors["student"], _feed(chosen, max(d.size_divisor for d in detectors.values()), session)


def _feed(bench: Bench, divisor: int, session: Session) -> Feed:
    return Feed(session.source(bench.data), bench, bench.recipe, 0, divisor, session.machine)
