"""Teachers: loaded from weights, or trained by their recipe and kept under the hash of everything that determines them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from kdflow.engine.checkpoint import read
from kdflow.engine.hooks import Hook
from kdflow.engine.invariants import require_teacher
from kdflow.engine.loop import fit
from kdflow.errors import KdflowError
from kdflow.experiment.feed import Feed
from kdflow.experiment.identity import detector_code, digest
from kdflow.experiment.setup import build_detector, fill_weights
from kdflow.graph.compile import compile_method
from kdflow.ports import Detector
from kdflow.spec.bench import TeacherSpec
from kdflow.spec.load import Document
from kdflow.spec.method import Method
from kdflow.tracking.lock import alone

Notify = Callable[[str], None]


def home() -> Path:
    """Where trained teachers and drawn data are kept: ``$KDFLOW_HOME`` or ``~/.cache/kdflow``."""
    return Path(os.environ.get("KDFLOW_HOME") or Path.home() / ".cache" / "kdflow")


def provide_teacher(
    owner: str, spec: TeacherSpec, detector: Detector, feed: Feed, *, hooks: Sequence[Hook] = (), notify: Notify = print
) -> tuple[str, Mapping[str, float]]:
    """Give a teacher its weights, training it first where it has only a recipe, and measure it.

    Args:
        owner: Its name in the run.
        spec: Weights or recipe.
        detector: Receives the weights.
        feed: Data of the bench.
        hooks: Listeners of its training.
        notify: Receives one line about what was done.

    Returns:
        Its identity (a hash), and its metrics on the validation split in percent.

    Raises:
        InvariantError: It is no better than chance.
        KdflowError: Its weights do not fit, or its training was interrupted.
    """
    if not detector.detects:
        notify(f"{owner}: a backbone that offers features; it is used as it is")
        return digest({"features": weights_hash(detector), "code": detector_code([spec.detector])}), {}
    if spec.weights is not None:
        fill_weights(spec, detector)
        identity = digest({"weights": weights_hash(detector), **feed.facts(), "code": detector_code([spec.detector])})
        folder = home() / "teachers" / identity
    else:
        identity = _identity(spec, detector, feed)
        folder = home() / "teachers" / identity
        # Processes of one run train it together; others wait and find it done.
        with alone(folder) if feed.machine.world_size == 1 else nullcontext():
            if not (folder / "weights.pt").is_file():
                notify(f"{owner}: trained once by its recipe, then kept in {folder}")
                _train(owner, spec, detector.classes, feed, folder, identity, hooks)
        detector.model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    metrics = _measured(folder, detector, feed)
    notify(f"{owner}: AP {metrics.get('AP', 0):.1f}, AP50 {metrics.get('AP50', 0):.1f} on the validation split")
    require_teacher(metrics, owner)
    return identity, metrics


def untrained_teacher(owner: str, detector: Detector, notify: Notify = print) -> tuple[str, Mapping[str, float]]:
    """Identity of a teacher that a phase of the method trains from random weights; a recipe of the bench is not used."""
    notify(f"{owner}: starts untrained, a phase of the method trains it")
    return digest({"untrained": weights_hash(detector)}), {}


def measure_learned(owner: str, detector: Detector, feed: Feed) -> Mapping[str, float]:
    """Metrics of a teacher that a phase has trained, on the validation split in percent.

    Raises:
        InvariantError: It is no better than chance.
    """
    metrics = feed.evaluate(detector, "val")
    require_teacher(metrics, owner)
    return metrics


def _identity(spec: TeacherSpec, detector: Detector, feed: Feed) -> str:
    return digest(
        {
            "spec": spec.model_dump(mode="json"),
            "classes": detector.classes,
            **feed.facts(),
            "seed": TEACHER_SEED,  # its training does not depend on the run's seed
            "code": detector_code([spec.detector]),
        }
    )


def weights_hash(detector: Detector) -> str:
    """Hash of a model's state dict."""
    import hashlib

    state = hashlib.sha256()
    for name, value in detector.model.state_dict().items():
        state.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()[:16]


PLAIN = Method(kdflow=1, method="teacher", teacher="none")
TEACHER_SEED = 0


def _train(
    owner: str,
    spec: TeacherSpec,
    classes: tuple[str, ...],
    feed: Feed,
    folder: Path,
    identity: str,
    hooks: Sequence[Hook],
) -> None:
    """Train a fresh copy without distillation and keep its best weights; an interrupted training goes on where it stopped."""
    document = Document(owner)
    learner = build_detector(spec, classes, document, owner, TEACHER_SEED)
    document.check()
    if learner is None or spec.recipe is None:
        raise KdflowError(f"{owner}: neither weights nor a recipe")
    own = Feed(feed.source, feed.bench, spec.recipe, TEACHER_SEED, learner.size_divisor, feed.machine, spec.size)
    side = -(-own.geometry.size // learner.size_divisor) * learner.size_divisor
    plan = compile_method(PLAIN, document, {"student": learner}, canvas=(side, side), seed=TEACHER_SEED)
    result = fit(
        plan,
        own.training,
        spec.recipe,
        folder=folder / "training",
        total_steps=own.total_steps,
        steps_per_epoch=own.steps_per_epoch,
        seed=TEACHER_SEED,
        run_hash=identity,
        hooks=hooks,
        evaluate=lambda _plan: own.evaluate(learner, "val"),
        metric=feed.bench.evaluation.metric,
        subject=f"{owner} of {feed.bench.bench}",
        device=feed.machine,
    )
    if result.status != "finished":
        raise KdflowError(f"{owner}: its training was {result.status}; run again to go on from step {result.step}")
    if feed.machine.is_first:
        save_atomically(folder / "weights.pt", best_student(folder / "training", learner).model.state_dict())


def best_student(folder: Path, detector: Detector) -> Detector:
    """The detector with the weights of its best evaluation, where one was kept."""
    if (best := folder / "best.pt").is_file():
        detector.model.load_state_dict(read(best)["student"])
    return detector


def _measured(folder: Path, detector: Detector, feed: Feed) -> Mapping[str, float]:
    """Metrics on the validation split, measured once per identity and input size."""
    file = folder / f"val-{digest(feed.facts())}.json"
    if file.is_file():
        found: dict[str, float] = json.loads(file.read_text())
        return found
    detector.model.to(feed.machine.device)
    metrics = feed.evaluate(detector, "val")
    if feed.machine.is_first:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(dict(metrics), indent=1))
    return metrics


def save_atomically(path: Path, state: Any) -> None:
    """Write a state dict so that a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    torch.save({k: v.detach().cpu().clone() for k, v in state.items()}, temporary)
    os.replace(temporary, path)
