"""``kdflow benches``: the settings that methods are run in."""

from __future__ import annotations

from kdflow.cli.console import columns, say, say_json
from kdflow.cli.options import JsonOption


def benches(json: JsonOption = False) -> None:
    """List the benches that come with kdflow."""
    from kdflow.resources import specs_folder
    from kdflow.spec.resolve import load_bench

    found = [load_bench(path) for path in sorted((specs_folder() / "benches").glob("*.yaml"))]
    if json:
        say_json([bench.model_dump(mode="json", exclude_none=True) for bench in found])
        return
    rows = []
    for bench in found:
        length = f"{bench.recipe.steps} steps" if bench.recipe.steps else f"{bench.recipe.epochs:g} epochs"
        teachers = ", ".join(spec.detector for spec in bench.all_teachers.values()) or "none"
        rows.append((bench.bench, bench.data.format, bench.student.detector, teachers, length, bench.title))
    say(columns(rows, head=("bench", "data", "student", "teacher", "length", "title")))
