"""Look at a method on its bench before it is trained: how hard its terms pull, and which nodes say nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from kdflow.engine.calibrate import aside, counting, measure
from kdflow.engine.phases import lay_out
from kdflow.engine.training import Training
from kdflow.events import Pull
from kdflow.experiment.request import Notify, RunRequest
from kdflow.experiment.run import give_weights
from kdflow.experiment.session import Session, open_session
from kdflow.experiment.setup import Setting
from kdflow.graph.probe import Probe, probe

BATCHES = 8


@dataclass(frozen=True)
class Probed:
    """What was seen before the first step.

    Attributes:
        method: Slug.
        bench: Bench name.
        pulls: How hard each term pulls at its weight; terms without a gradient where the detector's losses have one are missing.
        values: What was seen of the nodes.
    """

    method: str
    bench: str
    pulls: tuple[Pull, ...]
    values: Probe

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "method": self.method,
            "bench": self.bench,
            "pulls": {pull.term: {"weight": pull.weight, "pull": pull.pull} for pull in self.pulls},
            "findings": [asdict(finding) for finding in self.values.findings],
            "sides": [asdict(sides) for sides in self.values.sides],
            "notes": list(self.values.notes),
        }


def look_ahead(request: RunRequest, batches: int = BATCHES, device: str = "auto", notify: Notify = print) -> Probed:
    """Load student and teachers as a run would, and look at its first batches; nothing is trained but missing teachers.

    Args:
        request: The run.
        batches: Batches that are looked at.
        device: ``auto``, ``cpu`` or ``cuda``.
        notify: Receives a line per phase of the work.

    Raises:
        SpecError, UsageError, DataError: The user's mistakes.
        InvariantError: A teacher is no better than chance.
    """
    setting = request.prepared()
    with open_session(device) as session:
        return _look(setting, session, batches, notify)


def _look(setting: Setting, session: Session, batches: int, notify: Notify) -> Probed:
    feed, plan = session.feed(setting), setting.plan
    session.inspect(feed, notify)
    give_weights(setting, session, feed, notify=notify)
    phases = lay_out(setting.method.phases, feed.total_steps)
    training = Training(plan, setting.bench.recipe, session.machine, phases, feed.steps_per_epoch, setting.seed)
    training.enter(0)
    for preparation in plan.preparations:
        preparation.run(plan, feed.one_pass())
    training.training_mode()
    names = [term.name for term in counting(training)]
    per_weight = measure(training, names, feed.training, batches) if names else {}
    with aside(training, feed.training, batches, "inspect") as looked_at:
        values = probe(plan, looked_at)
    pulls = [Pull(name, plan.weights[name], abs(plan.weights[name]) * found) for name, found in per_weight.items()]
    return Probed(setting.method.method, setting.bench.bench, tuple(pulls), values)
