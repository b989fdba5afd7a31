"""The part ``portability``: every method compiled on every embedded bench, and three methods trained on each for some steps."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from kdflow.errors import KdflowError
from kdflow.experiment.find import names_in
from kdflow.experiment.matrix import Cell, as_markdown, portability
from kdflow.experiment.run import run
from kdflow.experiment.session import Session, open_session
from kdflow.resources import specs_folder

TRAINED = ("baseline", "pkd", "fitnet")
STEPS = 20
HEAD = """# Portability

`python -m benchmarks.evidence portability`: the same spec files, unedited, on every embedded bench.

## Trained

{steps} steps of training, evaluation and export on each bench.

{trained}
## Compiled

Checked against the bench's detectors and lowered; what does not run is refused with this reason before any data are read.

{compiled}"""


def prove(benches: Sequence[str], page: Path) -> bool:
    """Train and compile; write the page. True when all that compiled of ``TRAINED`` ran."""
    compiled = portability(names_in(specs_folder()), benches)
    possible = {(cell.method, cell.bench): cell for cell in compiled}
    with tempfile.TemporaryDirectory() as folder, open_session("cpu") as session:
        trained = [_train(possible[m, b], Path(folder), session) for m in TRAINED for b in benches]
    page.write_text(HEAD.format(steps=STEPS, trained=as_markdown(trained), compiled=as_markdown(compiled)))
    return all(cell.runs for cell in trained if possible[cell.method, cell.bench].runs)


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
