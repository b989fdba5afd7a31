"""Training: one loop for every method, detector and teacher."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from kdflow.engine import ranks
from kdflow.engine.checkpoint import Checkpoints
from kdflow.engine.hooks import EvaluationEvent, Hook, RunEnded, RunStarted, StepEvent, StopRun
from kdflow.engine.interruption import Interruption
from kdflow.engine.journal import Journal
from kdflow.engine.machine import Machine, open_machine
from kdflow.engine.phases import lay_out
from kdflow.engine.protocols import Loader, Metrics, Passes, Plan
from kdflow.engine.randomness import generators_untouched, seed_generators
from kdflow.engine.training import Training
from kdflow.errors import InvariantError, UsageError, choices
from kdflow.spec import method
from kdflow.spec.bench import Recipe
