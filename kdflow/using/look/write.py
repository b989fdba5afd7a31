"""Looking at a run: gather, then write the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdflow.errors import UsageError
from kdflow.files import write_text
from kdflow.using.look.gather import gather
from kdflow.using.look.heat import Heat
from kdflow.using.look.page import page
from kdflow.using.saved import reopen

PAGE = "look.html"


def look(
    run: str | Path,
    output: str | Path | None = None,
    *,
    images: Sequence[str] = (),
    node: str | None = None,
    threshold: float = 0.3,
    most: int = 8,
    against: str | Path | None = None,
) -> Path:
    """Write one HTML page of a run: ground truth, teacher, plain student and student side by side; returns its path.

    Args:
        run: A run's folder or name.
        output: The page; none takes ``look.html`` in the run's folder.
        images: File names of pictures of the test split to show, in place of the worst and most telling ones.
        node: Name of a node of the graph (``their_places``, ``student.neck``), shown as heat over each picture.
        threshold: Lowest score that is drawn and matched.
        most: Pictures per section.
        against: The plain student's run; none takes the baseline run beside this one.

    Raises:
        UsageError: The run kept no detections, or there is no such picture or node.
    """
    if not 0 <= threshold <= 1:
        raise UsageError(f"the threshold is a score in 0..1, not {threshold:g}")
    saved = reopen(run)
    plain = None if against is None else reopen(against).folder
    facts = gather(saved, threshold, most, images, plain)
    heat = None if node is None else Heat(saved, node)
    return write_text(Path(output) if output is not None else saved.folder / PAGE, page(facts, heat))
