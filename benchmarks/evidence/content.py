"""What a row of the evidence was measured with: a hash of method, bench, teacher and code, so that a stale row is told.

What changes no result (titles, comments, how often something is logged) does not count, nor what drawn data look like, which the
bench's options say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from kdflow.compare.content import Comparison, EntryRow
from kdflow.compare.verify import read_file
from kdflow.errors import KdflowError
from kdflow.experiment.hashes import digest
from kdflow.experiment.identity import identify
from kdflow.experiment.reading import read_method
from kdflow.experiment.request import with_length
from kdflow.experiment.setup import prepare
from kdflow.experiment.shelf import Shelf

OWN = ("method", "bench", "code", "weights")
"""What of a run is compared with a comparison's file; its data and teachers are hashes of content there."""
SHELF = Shelf()


@cache
def content_of(method: str, bench: str | None = None, *, steps: int | None = None) -> str:
    """The hash as it is now; empty where the method does not compile."""
    try:
        setting = prepare(read_method(method), bench, overrides=with_length({}, steps), shelf=SHELF)
        return identify(setting, "").definition
    except KdflowError:
        return ""


def told(was: object, now: str) -> str:
    """Whether a row is of the present code, in a word."""
    if not was:
        return "not known"
    return "yes" if was == now else "no, stale"


def stale(pages: Path) -> Iterator[str]:
    """Every row below a folder of evidence that is not of the present code, in words."""
    from benchmarks.floors import PLAIN

    for name, key, of in (("runs", "method", lambda row: content_of(row["method"], steps=row["steps"])),
                          ("floors", "bench", lambda row: content_of(PLAIN, row["bench"]))):
        file = pages / f"{name}.json"
        for row in json.loads(file.read_text()) if file.is_file() else ():
            if (word := told(row.get("content"), of(row))) != "yes":
                yield f"{file.name}: {row[key]}: of this code: {word}"
    for file in sorted((pages / "comparisons").glob("*.json")):
        comparison = read_file(file).comparison
        for entry in comparison.entries:
            if entry.kind != "control" and entry.made_of and not _is_present(entry, comparison):
                yield f"{file.name}: {entry.name}: of this code: no, stale"


def _is_present(entry: EntryRow, comparison: Comparison) -> bool:
    overrides = {**comparison.settings.overrides, **entry.values}
    try:
        now = identify(prepare(read_method(entry.method), comparison.bench, overrides=overrides, shelf=SHELF), "").parts
    except KdflowError:
        return False
    return digest({key: now[key] for key in OWN}) == digest({key: entry.made_of.get(key) for key in OWN})
