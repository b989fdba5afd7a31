"""The report: everything that was measured and published, as one HTML page that needs no network."""

from __future__ import annotations

from pathlib import Path

from kdflow.files import write_text
from kdflow.results.record import BASELINE


def write_report(
    folder: Path, uri: str | None = None, where: str = "", against: str = BASELINE, metric: str = "AP", ablations: bool = False
) -> Path:
    """Write ``index.html`` into ``folder`` and return its path; the other arguments are those of :func:`gather.gather`."""
    from kdflow.results.report.gather import gather
    from kdflow.results.report.page import page

    text = page(gather(uri, where, against, metric, ablations))
    return write_text(folder / "index.html", text)
