"""What several runs in one process share: the device, open data, and teachers that are loaded once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kdflow.data.check import require_ready
from kdflow.data.formats import DataSource, open_data, parse_options
from kdflow.data.shapes import ShapesOptions, cache_folder
from kdflow.data.transforms import Geometry
from kdflow.engine.machine import Machine, device_kind, open_machine
from kdflow.events import Hook
from kdflow.experiment.feed import Feed
from kdflow.experiment.hashes import digest
from kdflow.experiment.identity import Identity, effects, identify, weights_hash
from kdflow.experiment.setup import Setting
from kdflow.experiment.teacher import provide_teacher
from kdflow.ports import Detector
from kdflow.spec.bench import DataSpec, TeacherSpec

Found = tuple[str, Mapping[str, float]]


@dataclass
class Sources:
    """Data sets, each opened once."""

    _open: dict[str, DataSource] = field(default_factory=dict)

    def get(self, data: DataSpec) -> DataSource:
        """The data of a bench, opened on first use."""
        key = digest({"format": data.format, "options": data.options})
        if key not in self._open:
            self._open[key] = open_data(data.format, data.options)
        return self._open[key]


@dataclass
class Preview:
    """Knows what a session would do, without its device: nothing is drawn, loaded or trained.

    Attributes:
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    device: str = "auto"
    _sources: Sources = field(default_factory=Sources)

    def identify(self, setting: Setting) -> Identity:
        """The identity of a run; that of a set which is yet to be drawn has the drawing's options in place of its content."""
        data = setting.bench.data
        source = self._sources.get(data)
        options = parse_options(data.format, data.options)
        undrawn = isinstance(options, ShapesOptions) and not cache_folder(options).is_dir()
        content = digest({"drawn": source.splits.pixels}) if undrawn else source.fingerprint
        return identify(setting, content, threads_on(device_kind(self.device)))

    def steps(self, setting: Setting) -> int | None:
        """Length of a run; None where its recipe says epochs, which are counted when the data are read."""
        return setting.bench.recipe.steps


def threads_on(device: str) -> int:
    """Threads that results on a device depend on: those of a CPU, else 0."""
    return torch.get_num_threads() if device == "cpu" else 0


@dataclass
class Session:
    """Keeps what is costly to open while runs come and go.

    Teachers are kept as weights, not as models: every plan gets detectors of its own, so no run can change another's teacher.

    Attributes:
        machine: The device, open for as long as the session.
    """

    machine: Machine
    _inspected: set[tuple[int, Geometry]] = field(default_factory=set)
    _sources: Sources = field(default_factory=Sources)
    _teachers: dict[str, tuple[Mapping[str, Tensor], Found]] = field(default_factory=dict)
    _weights: dict[tuple[str, str], str] = field(default_factory=dict)

    def source(self, data: DataSpec) -> DataSource:
        """The data of a bench, opened on first use."""
        return self._sources.get(data)

    def feed(self, setting: Setting) -> Feed:
        """The batches of a setting."""
        bench = setting.bench
        divisor = max(d.size_divisor for d in setting.detectors.values())
        return Feed(self.source(bench.data), bench, bench.recipe, setting.seed, divisor, self.machine)

    def identify(self, setting: Setting) -> Identity:
        """The identity of a run in this session."""
        machine = self.machine
        content = self.source(setting.bench.data).fingerprint
        return identify(setting, content, threads_on(machine.device.type), machine.world_size)

    def steps(self, setting: Setting) -> int | None:
        """Length of a run."""
        return self.feed(setting).total_steps

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
        facts = {"owner": owner, "spec": effects(spec), "classes": detector.classes, **feed.facts()}
        key = digest({**facts, "batch": feed.bench.evaluation.model_dump(mode="json")})
        if key in self._teachers:
            state, found = self._teachers[key]
            detector.model.load_state_dict(state)
            return found
        found = provide_teacher(owner, spec, detector, feed, hooks=hooks, notify=notify)
        state = {name: value.detach().cpu().clone() for name, value in detector.model.state_dict().items()}
        self._teachers[key] = state, found
        return found

    def weights_of(self, owner: str, identity: str, detector: Detector) -> str:
        """Hash of a teacher's weights as they are in memory; read once per identity."""
        key = owner, identity
        if key not in self._weights:
            self._weights[key] = weights_hash(detector)
        return self._weights[key]


@contextmanager
def open_session(device: str = "auto") -> Iterator[Session]:
    """A session on ``auto``, ``cpu`` or ``cuda``; the device is given back at the end."""
    with open_machine(device) as machine:
        yield Session(machine)
