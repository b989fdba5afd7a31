"""The part ``portability``: every method compiled on every embedded bench, and three methods trained on each for some steps.

With some benches alone the page keeps what it says of the others.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from kdflow.errors import KdflowError
from kdflow.experiment.find import names_in
from kdflow.experiment.matrix import UNKNOWN, Cell, as_markdown, from_markdown, portability
from kdflow.experiment.run import run
from kdflow.experiment.session import Session, open_session
from kdflow.resources import specs_folder

TRAINED = ("baseline", "pkd", "fitnet")
STEPS = 20
COMPILED = "## Compiled"
HEAD = """# Portability

`python -m benchmarks.evidence portability`: the same spec files, unedited, on every embedded bench; "{unknown}"
stands for a pair that was not tried.

## Trained

{steps} steps of training, evaluation and export on each bench.

{trained}
{heading}

Checked against the bench's detectors and lowered; what does not run is refused with this reason before any data are read.

{compiled}"""


def prove(benches: Sequence[str], page: Path, trained: bool = True) -> bool:
    """Compile and, where asked, train; write the page. True when all that compiled of ``TRAINED`` ran."""
    compiled = portability(names_in(specs_folder()), benches)
    possible = {(cell.method, cell.bench): cell for cell in compiled}
    with tempfile.TemporaryDirectory() as folder, open_session("cpu") as session:
        pairs = [(method, bench) for method in TRAINED for bench in benches] if trained else []
        ran = [_train(possible[pair], Path(folder), session) for pair in pairs]
    earlier = [from_markdown(part) for part in page.read_text().split(COMPILED)] if page.is_file() else [[], []]
    words = {
        "trained": as_markdown(merged(earlier[0], ran, TRAINED)),
        "compiled": as_markdown(merged(earlier[1], compiled, names_in(specs_folder()))),
    }
    page.write_text(HEAD.format(steps=STEPS, unknown=UNKNOWN, heading=COMPILED, **words))
    return all(cell.runs for cell in ran if possible[cell.method, cell.bench].runs)


def merged(earlier: Iterable[Cell], now: Iterable[Cell], methods: Sequence[str]) -> list[Cell]:
    """Cells of the page and of this measurement, which counts where both have one; of present methods and benches, sorted."""
    known = {(cell.method, cell.bench): cell for cell in [*earlier, *now]}
    order = [(method, bench) for method in methods for bench in names_in(specs_folder() / "benches")]
    return [known[pair] for pair in order if pair in known]


def _train(cell: Cell, output: Path, session: Session) -> Cell:
    """The cell after a real run."""
    if not cell.runs:
        return cell
    try:
        run(cell.method, bench=cell.bench, steps=STEPS, output=output, notify=lambda _: None, session=session)
    except KdflowError as error:
        cell = Cell(cell.method, cell.bench, False, str(error).splitlines()[0])
    print(f"{cell.method} on {cell.bench}: {'ran' if cell.runs else cell.reason}", flush=True)
    return cell
