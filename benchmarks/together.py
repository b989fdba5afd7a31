"""``python -m benchmarks.together``: K students on one pass of the teacher, against each student alone with a teacher of its own.

Before anything is timed, some steps of every group are compared with the same steps alone: weights and optimizer state must
be equal bit for bit (on a CPU; on a GPU the largest difference is reported). Then all take turns in random order in one
process.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import command, common, variants
from kdflow.engine.checkpoint import Checkpoints
from kdflow.engine.interruption import Interruption
from kdflow.engine.journal import Journal
from kdflow.engine.loop import train_step
from kdflow.engine.machine import Machine
from kdflow.engine.phases import lay_out
from kdflow.engine.run import Fit, Run
from kdflow.engine.together import Group, Stream, Student
from kdflow.engine.training import Training
from kdflow.events import Hook
from kdflow.experiment.build import Teachers
from kdflow.experiment.setup import Setting
from kdflow.graph.share import Shared
from kdflow.ports import Batch

NOWHERE = Path("not-written")


def open_student(options: argparse.Namespace, machine: Machine, number: int, teachers: Teachers | None) -> Setting:
    """Student ``number``: the methods in turn, and in each further round another weight of its first term."""
    again, place = divmod(number, len(options.method))
    method = options.method[place]
    keys: Any = {"size": options.size, "batch": options.batch, "precision": options.precision}
    changes: dict[str, Any] = {"recipe.log_every": variants.ENDLESS, "recipe.optimizer.lr": options.rate}
    setting = variants.open_setting(options.pair, method, **keys, changes=changes)
    terms = [term for term in setting.plan.terms if term.is_distillation]
    if again and terms:
        changes[f"terms.{terms[0].name.removeprefix('kd/')}.weight"] = terms[0].weight * 1.1**again
    setting = variants.open_setting(options.pair, method, **keys, changes=changes, teachers=teachers)
    setting.plan.to(machine.device)
    return setting


def open_alone(options: argparse.Namespace, machine: Machine, number: int) -> Training:
    """The engine in front of one student with a teacher of its own."""
    setting = open_student(options, machine, number, None)
    samples = variants.make_samples(setting, machine.device.type)
    variants.calibrate(setting, samples[0])
    training = training_of(setting, machine)
    training.batches = (sample.batch for sample in cycle(samples))
    return training


def open_group(options: argparse.Namespace, machine: Machine, size: int) -> Group:
    """The first ``size`` students on one stream of batches that lie in memory, with nobody listening and nothing written."""
    teachers: Teachers = {}
    settings = [open_student(options, machine, number, teachers) for number in range(size)]
    samples = variants.make_samples(settings[0], machine.device.type)
    for setting in settings:
        variants.calibrate(setting, samples[0])

    def batches(first: int) -> Iterator[Batch]:
        return (samples[k % len(samples)].batch for k in count(first))

    students = [Student(unheard(setting, machine)) for setting in settings]
    return Group(students, Stream(batches, 1, variants.ENDLESS), Shared, machine)


def unheard(setting: Setting, machine: Machine, hooks: Sequence[Hook] = ()) -> Run:
    """An endless run in its first phase, of which nothing is written."""
    recipe = setting.bench.recipe
    asked = Fit(setting.plan, recipe, NOWHERE, variants.ENDLESS, variants.ENDLESS, setting.seed, phases=setting.method.phases)
    journal = Journal(NOWHERE, "", False, writes=False)
    return Run(asked, training_of(setting, machine), Checkpoints(NOWHERE), journal, hooks, Interruption(), no_data)


def no_data(_first: int) -> Iterator[Batch]:
    """The batches lie in memory already."""
    return iter(())


def training_of(setting: Setting, machine: Machine) -> Training:
    phases = lay_out(setting.method.phases, variants.ENDLESS)
    training = Training(setting.plan, setting.bench.recipe, machine, phases, variants.ENDLESS, setting.seed)
    training.enter(0)
    return training


def stepper(group: Group) -> Callable[[int], None]:
    """One step of every student of the group; a student that leaves ends the benchmark."""

    def step(_round: int) -> None:
        group.step(group.students, group.students[0].step)
        for student in group.students:
            if student.ended is not None:
                raise SystemExit(f"a student left its group: {student.ended.reason}")

    return step


def state(training: Training) -> dict[str, Tensor]:
    """Weights and momentum."""
    moments = training.optimizer.state_dict()["state"]
    values = {f"momentum {key}": own["momentum_buffer"] for key, own in moments.items()}
    return {**{k: v.detach().clone() for k, v in training.plan.state_dict().items()}, **values}


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest absolute difference; infinite where names differ or numbers are not finite."""
    if one.keys() != other.keys() or not all(torch.isfinite(v).all() for v in one.values() if v.is_floating_point()):
        return float("inf")
    return max(float((one[k].double() - other[k].double()).abs().max()) for k in one if one[k].numel())


def compare(options: argparse.Namespace, machine: Machine, size: int) -> float:
    """The largest difference between students together and alone, after some steps from the same start."""
    group = open_group(options, machine, size)
    step = stepper(group)
    for student in group.students:
        torch.manual_seed(7)
        student.random["torch"] = torch.get_rng_state()
    for number in range(options.steps):
        step(number)
    found = 0.0
    for number, student in enumerate(group.students):
        alone = open_alone(options, machine, number)
        torch.manual_seed(7)
        for _ in range(options.steps):
            train_step(alone)
        found = max(found, difference(state(student.run.training), state(alone)))
    return found


def measure(options: argparse.Namespace, machine: Machine) -> dict[str, Any]:
    """Equality, then times and costs per student."""
    largest = {size: compare(options, machine, size) for size in options.size_of_group}
    kinds = min(len(options.method), max(options.size_of_group))
    alone = {f"alone {number}": open_alone(options, machine, number) for number in range(kinds)}
    groups = {f"together {size}": open_group(options, machine, size) for size in options.size_of_group}
    steps: dict[str, Callable[[int], object]] = {name: partial(_alone, own) for name, own in alone.items()}
    steps |= {name: stepper(group) for name, group in groups.items()}
    times = common.interleave(
        steps, rounds=options.rounds, warmup=options.warmup, wait=common.waiter(machine.device.type), seed=options.seed,
        clock=common.CLOCKS[options.clock],
    )
    cost = {size: per_student(times, size, kinds) for size in options.size_of_group}
    return {
        "pair": options.pair, "methods": options.method, "size": options.size, "batch": options.batch,
        "precision": options.precision, "rounds": options.rounds, "clock": options.clock,
        "machine": common.machine_facts(machine.device.type),
        "identical": not any(largest.values()), "largest_difference": {str(k): v for k, v in largest.items()},
        "compared_steps": options.steps,
        "step_ms": {name: common.estimate([1e3 * t for t in own]).as_json() for name, own in times.items()},
        "cost_per_student": {str(size): round(own.median, 4) for size, own in cost.items()},
        "cost_per_student_spread": {str(size): own.as_json() for size, own in cost.items()},
    }


def _alone(training: Training, _round: int) -> None:
    train_step(training)


def per_student(times: dict[str, list[float]], size: int, kinds: int) -> common.Estimate:
    """A group's step per student over the mean step of its students alone, round by round."""
    members = [f"alone {number % kinds}" for number in range(size)]
    rounds = zip(times[f"together {size}"], zip(*(times[name] for name in members)))
    return common.estimate([whole / size / statistics.fmean(own) for whole, own in rounds])


def as_text(result: dict[str, Any]) -> str:
    """Two tables."""
    places = ("median", "low", "high", "q25", "q75")
    titles = ("median", "95 % low", "high", "q25", "q75")
    head = "{pair}, {names}, batch {batch}, {precision}, {rounds} rounds, {clock} time"
    rows = (("step, ms", "step_ms", "{:.2f}"), ("cost per student", "cost_per_student_spread", "{:.3f}"))
    tables = [
        common.table((title, *titles), [[name, *(form.format(v[p]) for p in places)] for name, v in result[key].items()])
        for title, key, form in rows
    ]
    same = "bit for bit equal" if result["identical"] else f"different: {result['largest_difference']}"
    words = f"weights together and alone after {result['compared_steps']} steps: {same}"
    named = head.format(names=", ".join(result["methods"]), **result)
    return "\n\n".join([named, common.facts_line(result["machine"]), words, *tables])


def parser() -> argparse.ArgumentParser:
    made = command.parser("together", __doc__)
    made.add_argument("--method", nargs="+", default=["fitnet", "pkd"], help="taken in turn; further rounds change a weight")
    made.add_argument("--students", dest="size_of_group", nargs="+", type=int, default=[1, 2, 4], metavar="K")
    made.add_argument("--steps", type=int, default=3, help="steps after which weights are compared")
    made.add_argument("--rate", type=float, default=1e-4, help="learning rate")
    command.precision_option(made)
    command.clock_option(made)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    command.run(parser().parse_args(arguments), measure, as_text)


if __name__ == "__main__":
    main()
