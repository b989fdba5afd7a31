"""A worker of its own process with an objective that trains nothing: ``drive.py URL STUDY SIZE LOG [DEADLY TRIAL]``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import optuna
from optuna.samplers import RandomSampler

from kdflow.search.queue import Queue, open_storage
from kdflow.search.worker import Judged, Worker, worker_name


def main(url: str, name: str, size: str, log: str, deadly: str = "-1") -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(url)
    queue = Queue(optuna.load_study(study_name=name, storage=storage), storage, int(size), worker_name(), beat=0.3, grace=3)
    queue.fill()

    def objective(trial: optuna.Trial) -> Judged:
        x = trial.suggest_float("x", 0, 1)
        with Path(log).open("a") as file:
            file.write(f"{trial.number} {os.getpid()} {x!r}\n")
        if trial.number == int(deadly):
            os._exit(9)
        time.sleep(0.05)
        if trial.number % 5 == 3:
            raise MemoryError("no room")
        return Judged([x])

    Worker(queue, objective, lambda number: RandomSampler(seed=number), notify=lambda _: None, poll=0.1).work()


if __name__ == "__main__":
    main(*sys.argv[1:])
