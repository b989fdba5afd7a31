"""``kdflow check``: everything that can be wrong with specs and benches, found without data, weights or training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdflow.cli.console import say, say_json
from kdflow.cli.options import BenchOption, JsonOption, SetOption, overrides_of
from kdflow.errors import Fault, KdflowError, SpecError, UsageError

if TYPE_CHECKING:
    from kdflow.experiment.setup import Setting
    from kdflow.experiment.shelf import Shelf

SpecsOrNone = Annotated[
    list[str] | None,
    typer.Argument(metavar="SPEC...", help="Files of methods and benches, or names that come with kdflow."),
]


@dataclass(frozen=True)
class Verdict:
    """What was found out about one file.

    Attributes:
        name: The file as the user named it.
        facts: What it declares; empty when it is faulty.
        faults: What is wrong.
    """

    name: str
    facts: dict[str, Any]
    faults: tuple[Fault, ...] = ()

    def __str__(self) -> str:
        if "terms" in self.facts:
            terms = ", ".join(f"{name} ({', '.join(nodes)})" for name, nodes in self.facts["terms"].items())
            good = f"{self.name}: good on {self.facts['bench']}: {terms or 'no distillation'}"
            return "\n".join([good, *(f"  worth knowing: {words}" for words in self.facts["remarks"])])
        return f"{self.name}: good bench: " + ", ".join(
            f"{owner} {name}" for owner, name in self.facts["detectors"].items()
        )


def check(
    specs: SpecsOrNone = None, bench: BenchOption = None, sets: SetOption = None, json: JsonOption = False
) -> None:
    """Check specs and benches before anything is run.

    Text, names, kinds, shapes and taxonomy are checked; nothing is trained, no data or weights are read.
    Prints one line per good file, and every fault of all the others. With --bench alone that bench is checked.
    """
    if not specs and bench is None:
        raise UsageError("name a spec to check, or a bench with --bench")
    changes = overrides_of(sets)
    named = list(specs) if specs else [str(bench)]
    verdicts = verdicts_of(named, bench if specs else None, changes, is_bench=not specs)
    good = [verdict for verdict in verdicts if not verdict.faults]
    if json:
        say_json([{"name": v.name, **v.facts, "faults": [vars(f) for f in v.faults]} for v in verdicts])
    else:
        for verdict in good:
            say(str(verdict))
    raise_all(verdicts)


def raise_all(verdicts: Sequence[Verdict]) -> None:
    """Raise one SpecError with the faults of all files, if there are any."""
    faults = [fault for verdict in verdicts for fault in verdict.faults]
    if faults:
        raise SpecError(faults)


def verdicts_of(
    names: Sequence[str], bench: str | None, overrides: dict[str, Any], is_bench: bool = False
) -> list[Verdict]:
    """Check files one by one; the detectors of a bench are built once for all of them."""
    from kdflow.experiment.shelf import Shelf

    shelf = Shelf()
    return [verdict_of(name, bench, overrides, is_bench, shelf) for name in names]


def verdict_of(
    name: str, bench: str | None, overrides: dict[str, Any], is_bench: bool = False, shelf: Shelf | None = None
) -> Verdict:
    """Check one file; nothing that is wrong with it raises."""
    try:
        facts = (
            _bench_facts(name, overrides, shelf)
            if is_bench or _looks_like_a_bench(name)
            else _method_facts(name, bench, overrides, shelf)
        )
    except SpecError as error:
        return Verdict(name, {}, error.faults)
    except KdflowError as error:
        return Verdict(name, {}, (Fault(name, 0, 0, "", str(error)),))
    return Verdict(name, facts)


def _looks_like_a_bench(name: str) -> bool:
    """True for a file with the key ``bench:`` and no ``method:``, and for a name that only a bench has."""
    from kdflow.experiment.find import find_bench, find_method
    from kdflow.spec.load import read

    try:
        data = read(find_method(name)).data
    except SpecError:
        return False
    except UsageError:
        try:
            find_bench(name)
        except UsageError:
            return False
        return True
    return "bench" in data and not {"method", "nodes", "terms"} & set(data)


def _method_facts(name: str, bench: str | None, overrides: dict[str, Any], shelf: Shelf | None) -> dict[str, Any]:
    from kdflow.experiment.reading import read_method
    from kdflow.experiment.setup import prepare

    setting: Setting = prepare(read_method(name), bench, overrides=overrides, shelf=shelf)
    terms = {term.name: list(term.nodes) for term in setting.plan.terms if term.is_distillation}
    remarks = list(setting.plan.report.remarks)
    return {"method": setting.method.method, "bench": setting.bench.bench, "terms": terms, "remarks": remarks}


def _bench_facts(name: str, overrides: dict[str, Any], shelf: Shelf | None) -> dict[str, Any]:
    from kdflow.experiment.find import find_bench
    from kdflow.experiment.setup import check_bench

    bench, detectors = check_bench(find_bench(name), overrides, shelf)
    found = {owner: f"{detector.name} ({detector.family})" for owner, detector in detectors.items()}
    return {"bench": bench.bench, "detectors": found, "path": str(Path(name))}
