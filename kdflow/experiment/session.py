"""What several runs in one process share: the device, open data, and teachers that are loaded once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from kdflow.data.check import require_ready
from kdflow.data.formats import DataSource, open_data
from kdflow.data.transforms import Geometry
from kdflow.engine.hooks import Hook
from kdflow.engine.machine import Machine, open_machine
from kdflow.experiment.feed import Feed
from kdflow.experiment.identity import digest
from kdflow.experiment.teacher import provide_teacher
from kdflow.ports import Detector
from kdflow.spec.bench import DataSpec, TeacherSpec

Found = tuple[str, Mapping[str, float]]


@dataclass
class Session:
    """Keeps what is costly to open while runs come and go.

    Teachers are kept as weights, not as models: every plan gets detectors of its own, so no run can change another's teacher.

    Attributes:
        machine: The device, open for as long as the session.
    """

    machine: Machine
    _inspected: set[tuple[int, Geometry]] = field(default_factory=set)
    _sources: dict[str, DataSource] = field(default_factory=dict)
    _teachers: dict[str, tuple[Mapping[str, Tensor], Found]] = field(default_factory=dict)

    def source(self, data: DataSpec) -> DataSource:
        """The data of a bench, opened on first use."""
        key = digest({"format": data.format, "options": data.options})
        if key not in self._sources:
            self._sources[key] = open_data(data.format, data.options)
        return self._sources[key]

    def inspect(self, feed: Feed, notify: Callable[[str], None] = print, metrics: Iterable[str] = ()) -> None:
        """Tell what is worth knowing about a feed's data, once.

        Raises:
            DataError: All that would stop or spoil a run, metrics among it that cannot exist on the validation split.
        """
        key = id(feed.source), feed.geometry
        if key in self._inspected and not metrics:
            return
        findings = require_ready(feed.source, feed.geometry, metrics)
        for finding in findings if self.machine.is_first and key not in self._inspected else ():
            notify(f"data: {finding}")
        self._inspected.add(key)

    def teacher(
        self,
        owner: str,
        spec: TeacherSpec,
        detector: Detector,
        feed: Feed,
        hooks: Sequence[Hook] = (),
        notify: Callable[[str], None] = print,
    ) -> Found:
        """Give a teacher its weights, from memory where this session had it before; see :func:`provide_teacher`."""
        facts = {"owner": owner, "spec": spec.model_dump(mode="json"), "classes": detector.classes, **feed.facts()}
        key = digest({**facts, "batch": feed.bench.evaluation.model_dump(mode="json")})
        if key in self._teachers:
            state, found = self._teachers[key]
            detector.model.load_state_dict(state)
            return found
        found = provide_teacher(owner, spec, detector, feed, hooks=hooks, notify=notify)
        state = {name: value.detach().cpu().clone() for name, value in detector.model.state_dict().items()}
        self._teachers[key] = state, found
        return found


@contextmanager
def open_session(device: str = "auto") -> Iterator[Session]:
    """A session on ``auto``, ``cpu`` or ``cuda``; the device is given back at the end."""
    with open_machine(device) as machine:
        yield Session(machine)
