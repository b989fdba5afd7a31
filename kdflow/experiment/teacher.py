"""Teachers: loaded from weights, or trained by their recipe and kept under the hash of everything that determines them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdflow.engine import ranks
from kdflow.engine.checkpoint import BrokenCheckpointError, read
from kdflow.engine.evaluate import Evaluation
from kdflow.engine.invariants import require_teacher
from kdflow.engine.loop import fit
from kdflow.engine.run import Fit
from kdflow.errors import KdflowError
from kdflow.events import Hook
from kdflow.experiment.build import build_detector, fill_weights
from kdflow.experiment.feed import Feed
from kdflow.experiment.findings import read_detections, write_detections
from kdflow.experiment.hashes import digest, file_hash
from kdflow.experiment.identity import TEACHER_SEED, effects, teacher_identity
from kdflow.experiment.room import require_room
from kdflow.files import read_json, replacing, write_json, write_text
from kdflow.folders import home
from kdflow.graph.compile import compile_method
from kdflow.ports import Detector
from kdflow.spec.bench import UNTRAINED, TeacherSpec
from kdflow.spec.load import Document
from kdflow.spec.method import Method
from kdflow.tracking.lock import alone

Notify = Callable[[str], None]
WEIGHTS, SEAL = "weights.pt", "weights.sha256"


class InterruptedTrainingError(KdflowError):
    """A teacher's training was asked to end; run again to go on with it."""


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
    identity = teacher_identity(spec, detector, feed.bench, feed.source.fingerprint)
    if not detector.detects:
        notify(f"{owner}: a backbone that offers features; it is used as it is")
        return identity, {}
    if spec.weights == UNTRAINED:
        notify(f"{owner}: untrained, as the bench says; it has learned nothing")
        return identity, {}
    folder = home() / "teachers" / identity
    if spec.weights is not None:
        fill_weights(spec, detector)
    else:
        # Processes of one run train it together; others wait and find it done.
        with alone(folder, notify) if feed.machine.world_size == 1 else nullcontext():
            if not _is_kept(folder, notify):
                notify(f"{owner}: trained once by its recipe, then kept in {folder}")
                _train(owner, spec, detector.classes, feed, folder, identity, hooks)
        detector.model.load_state_dict(torch.load(folder / WEIGHTS, weights_only=True))
    metrics = _measured(folder, detector, feed, notify)
    notify(f"{owner}: AP {metrics.get('AP', 0):.1f}, AP50 {metrics.get('AP50', 0):.1f} on the validation split")
    require_teacher(metrics, owner)
    return identity, metrics


def untrained_teacher(owner: str, identity: str, notify: Notify = print) -> tuple[str, Mapping[str, float]]:
    """Identity of a teacher that a phase of the method trains from random weights; a recipe of the bench is not used."""
    notify(f"{owner}: starts untrained, a phase of the method trains it")
    return digest({"untrained": identity}), {}


def _is_kept(folder: Path, tell: Notify) -> bool:
    """Whether the folder holds a trained teacher, with the content that was written; what is not whole counts as absent."""
    weights, seal = folder / WEIGHTS, folder / SEAL
    if not weights.is_file():
        return False
    if seal.is_file() and seal.read_bytes().strip() == file_hash(weights).encode():
        return True
    tell(f"{weights} is not what was written there, so it counts as absent")
    return False


def kept_weights(identity: str) -> Path | None:
    """The file of a trained teacher's weights; None where they are not kept, or not whole."""
    folder = home() / "teachers" / identity
    return folder / WEIGHTS if identity and _is_kept(folder, lambda _: None) else None


def _keep(folder: Path, detector: Detector) -> None:
    """Write a trained teacher; the hash of its content comes last."""
    (folder / SEAL).unlink(missing_ok=True)
    save_atomically(folder / WEIGHTS, detector.model.state_dict())
    write_text(folder / SEAL, file_hash(folder / WEIGHTS) + "\n")


def measure_learned(owner: str, detector: Detector, feed: Feed) -> Mapping[str, float]:
    """Metrics of a teacher that a phase has trained, on the validation split in percent.

    Raises:
        InvariantError: It is no better than chance.
    """
    metrics = feed.evaluate(detector, "val")
    require_teacher(metrics, owner)
    return metrics


PLAIN = Method(kdflow=1, method="teacher", teacher="none")


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
    if feed.machine.is_first:
        require_room(folder / "training", plan, learner.model, spec.recipe)
    asked = Fit(
        plan,
        spec.recipe,
        folder / "training",
        own.total_steps,
        own.steps_per_epoch,
        TEACHER_SEED,
        identity,
        hooks,
        evaluate=lambda _plan: own.evaluate(learner, "val"),
        metric=feed.bench.evaluation.metric,
        subject=f"{owner} of {feed.bench.bench}",
    )
    result = fit(asked, own.training, device=feed.machine)
    if result.status != "finished":
        raise InterruptedTrainingError(f"{owner}: its training was {result.status}; run again to go on from step {result.step}")
    if feed.machine.is_first:
        _keep(folder, best_student(folder / "training", learner))
    ranks.wait()


def best_student(folder: Path, detector: Detector, plan: nn.Module | None = None) -> Detector:
    """The detector with the weights of its best evaluation, where one was kept; raises KdflowError for a damaged one.

    Args:
        folder: Of the run.
        detector: Receives the weights.
        plan: Receives what was kept beside them, where the detector predicts through trained ops.
    """
    if (best := folder / "best.pt").is_file():
        try:
            found = read(best)
            detector.model.load_state_dict(found["student"])
            if plan is not None and found.get("beside"):
                plan.load_state_dict({**plan.state_dict(), **found["beside"]})
        except BrokenCheckpointError as fault:
            raise KdflowError(f"{best}: {fault}. Next: delete the folder and run this again, without --resume") from fault
    return detector


def student_of(checkpoint: Path) -> Mapping[str, Any]:
    """State dict of the student in a checkpoint; raises KdflowError for one that cannot be read."""
    try:
        found: Mapping[str, Any] = read(checkpoint)["student"]
    except (OSError, KeyError, BrokenCheckpointError) as fault:
        raise KdflowError(f"{checkpoint}: it holds no student to start from ({fault})") from fault
    return found


def _measured(folder: Path, detector: Detector, feed: Feed, tell: Notify) -> Mapping[str, float]:
    """Metrics on the validation split, measured once per identity, input size and way to evaluate."""
    file = folder / f"val-{_sight(feed)}.json"
    found = read_json(file, tell)
    if isinstance(found, dict) and found and all(isinstance(value, (int, float)) for value in found.values()):
        return {str(name): float(value) for name, value in found.items()}
    detector.model.to(feed.machine.device)
    metrics = feed.evaluate(detector, "val")
    if feed.machine.is_first:
        write_json(file, dict(metrics))
    return metrics


def _sight(feed: Feed) -> str:
    """Hash of the data, the input size and the way to evaluate."""
    seen = {key: value for key, value in feed.facts().items() if key not in ("seed", "augment")}
    return digest({**seen, "evaluation": effects(feed.bench.evaluation)})


def examined(identity: str, detector: Detector, feed: Feed, tell: Notify = print) -> tuple[Evaluation, Path]:
    """What a teacher is worth on the test split, and the file of what it found there; done once per identity and sight."""
    folder = home() / "teachers" / identity
    return examine_into(folder / f"test-{_sight(feed)}.json", detector, feed, tell)


def examine_into(file: Path, detector: Detector, feed: Feed, tell: Notify = print) -> tuple[Evaluation, Path]:
    """Evaluate on the test split and keep what was found in ``file``; read from there where it was done before."""
    if (known := read_detections(file, tell)) is not None:
        return known.evaluation, file
    detector.model.to(feed.machine.device)
    found = feed.examine(detector, "test")
    if feed.machine.is_first:
        write_detections(file, found, feed.source.splits["test"].coco)
    return found, file


def save_atomically(path: Path, state: Any) -> None:
    """Write a state dict so that a reader sees the old file or the whole new one; raises WriteError."""
    with replacing(path) as draft, draft.open("wb") as file:
        torch.save({k: v.detach().cpu().clone() for k, v in state.items()}, file)
