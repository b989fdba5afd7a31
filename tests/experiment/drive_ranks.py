"""Ten steps of DeFeat on RetinaNet, in one process or several (see test_ranks.py)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from kdflow.engine.loop import fit
from kdflow.engine.machine import Machine, open_machine
from kdflow.engine.run import Fit
from kdflow.experiment.reading import read_method
from kdflow.experiment.session import Session
from kdflow.experiment.setup import prepare

BENCH = Path(__file__).parents[1] / "benches" / "tiny-retinanet.yaml"
METHOD = "defeat"
"""An adapter, masks from boxes, and divisors that count places over all processes; nothing in it is drawn."""


def train(folder: Path, batch: int, machine: Machine) -> dict[str, Any]:
    """Weights of student and adapters, and the loss by step."""
    setting = prepare(read_method(METHOD), BENCH, overrides={"recipe.batch": batch})
    feed = Session(machine).feed(setting)
    result = fit(Fit(setting.plan, setting.bench.recipe, folder, 10, 4), feed.training, device=machine)
    state = {name: value.clone() for name, value in setting.plan.state_dict().items()}
    return {"state": state, "losses": [event.total for event in result.history]}


if __name__ == "__main__":
    where, images = Path(sys.argv[1]), int(sys.argv[2])
    with open_machine("cpu") as opened:
        found = train(where / "run", images, opened)
        torch.save(found, where / f"rank{opened.rank}.pt")
