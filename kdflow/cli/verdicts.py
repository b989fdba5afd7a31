"""A comparison in words, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdflow.cli.console import columns

if TYPE_CHECKING:
    from kdflow.compare.content import File, VerdictRow


def report(file: File) -> str:
    """The table, the verdicts and the audit, for a terminal."""
    from kdflow.compare.verify import warnings_of

    comparison = file.comparison
    metric, plain = comparison.settings.metric, comparison.entries[0].name
    verdicts = {row.entry: row for row in comparison.verdicts if row.against == plain}
    rows = []
    for entry in comparison.entries:
        row, cost = verdicts.get(entry.name), file.costs.get(entry.name)
        rows.append((
            entry.name, entry.kind, entry.in_words(metric), row.in_words if row else "", _corrected(row),
            row.verdict if row else "",
            _one(cost.step_ms if cost else None), _one(cost.memory_mib if cost else None), str(entry.added_parameters),
        ))
    head = ("entry", "kind", metric, "gain, 95 %", "p (Holm)", "verdict", "step ms", "MiB", "added")
    lines = [
        f"{comparison.name}: {comparison.settings.in_words}",
        columns(rows, head=head),
    ]
    lines += comparison.teachers_in_words
    for row in comparison.verdicts:
        if row.against != plain:
            lines.append(f"{row.entry} against {row.against}: {row.verdict}, {row.in_words}, p (Holm) {_corrected(row)}")
    lines += [f"{row.entry}: {row.verdict}. It would change with: {row.turn}" for row in verdicts.values() if row.turn]
    lines.append(
        "The interval is that of one difference alone; the verdict holds the chance of any wrong one among the methods, and "
        "among the controls, below 5 % each (Holm)."
    )
    same = ", ".join(row.what for row in comparison.audit if row.same)
    lines.append(f"the same for all entries: {same or 'nothing'}")
    lines += [f"worth knowing: {words}" for words in warnings_of(file)]
    lines += [f"left out: {name}: {reason}" for name, reason in comparison.left_out.items()]
    return "\n".join(lines)


def _corrected(row: VerdictRow | None) -> str:
    return "" if row is None or row.mean is None else f"{row.adjusted:.3f}"


def _one(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
