"""A comparison in words, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdflow.cli.console import columns

if TYPE_CHECKING:
    from kdflow.compare.content import File, VerdictRow


def report(file: File) -> str:
    """The table, the verdicts and the audit, for a terminal."""
    from kdflow.compare.verify import warnings_of
    from kdflow.compare.work import summary

    comparison = file.comparison
    metric, plain = comparison.settings.metric, comparison.entries[0].name
    verdicts = {row.entry: row for row in comparison.verdicts if row.against == plain}
    rows = []
    for name, mean, spread in summary(file):
        row, cost, entry = verdicts.get(name), file.costs.get(name), comparison.entry(name)
        rows.append((
            name, entry.kind, _number(mean, spread), _difference(row), _corrected(row), row.verdict if row else "",
            _one(cost.step_ms if cost else None), _one(cost.memory_mib if cost else None), str(entry.added_parameters),
        ))
    head = ("entry", "kind", metric, "gain, 95 %", "p (Holm)", "verdict", "step ms", "MiB", "added")
    lines = [
        f"{comparison.bench}: {len(comparison.settings.seeds)} seeds, {comparison.settings.budget} trials each",
        columns(rows, head=head),
    ]
    lines += [f"the {owner} itself: {value:.2f} {metric}" for owner, value in comparison.taught_by().items()]
    for row in comparison.verdicts:
        if row.against != plain:
            lines.append(f"{row.entry} against {row.against}: {row.verdict}, {_difference(row)}, p (Holm) {_corrected(row)}")
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


def _number(mean: float | None, spread: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.2f}" if spread is None else f"{mean:.2f} ± {spread:.2f}"


def _difference(row: VerdictRow | None) -> str:
    if row is None or row.mean is None:
        return ""
    return f"{row.mean:+.2f}" if row.low is None or row.high is None else f"{row.mean:+.2f} ({row.low:+.2f} to {row.high:+.2f})"


def _corrected(row: VerdictRow | None) -> str:
    return "" if row is None or row.mean is None else f"{row.adjusted:.3f}"


def _one(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
