"""Writes the pages that are made from specs, ops, detectors, data formats, taxonomy and comparisons into ``docs/generated/``."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from kdflow.cli.describe import OptionFacts, describe_op, describe_options, literal
from kdflow.cli.detectors import facts_of
from kdflow.cli.methods import shipped
from kdflow.compare.content import EntryRow, File, VerdictRow
from kdflow.compare.page import page as comparison_page
from kdflow.compare.page import read_folder
from kdflow.compare.verify import warnings_of
from kdflow.data.formats import DATASETS
from kdflow.errors import KdflowError, UsageError
from kdflow.escape import markdown, one_line
from kdflow.experiment.find import find_method
from kdflow.experiment.reading import read_method
from kdflow.experiment.setup import Setting, prepare
from kdflow.graph import draw
from kdflow.operation import OPS
from kdflow.ports import DETECTORS
from kdflow.results.published import PublishedFile, load_published
from kdflow.spec.bench import Augment, DataSpec, Optimizer, Recipe, Schedule
from kdflow.spec.schedule import SCHEDULES, option_model
from kdflow.standard_ports import STANDARD_PORTS
from kdflow.taxonomy import load_tree

HERE = Path(__file__).parent
GENERATED = HERE / "generated"
COMPARISONS = HERE / "evidence" / "comparisons"
TINY = {"backbone": "timm:test_resnet", "neck": 64}


def main(folder: Path = GENERATED) -> int:
    """Write every page; returns the number of methods that could not be drawn."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, page in PAGES.items():
        write(folder / name, page())
    for group in sorted({name.partition(".")[0] for name in OPS}):
        write(folder / "ops" / f"{group}.md", op_page(group))
    for name in DETECTORS:
        write(folder / "detectors" / f"{name}.md", detector_page(name))
    write(folder / "html" / "leaderboards" / "index.html", comparison_page(*read_folder(COMPARISONS)))
    problems = 0
    for facts in shipped():
        problems += method_page(facts, folder / "methods")
    return problems


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.rstrip() + "\n", encoding="utf-8")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell(value) for value in row) + " |" for row in lines)


def cell(value: object) -> str:
    words = " ".join(str(value).split())
    return re.sub(r"(?<!\\)\|", r"\\|", words if words.startswith("`` ") else words.replace("``", "`"))


def code(text: object) -> str:
    words = one_line(str(text))
    if not words:
        return ""
    return f"`` {words} ``" if "`" in words else f"`{words}`"


def fenced(text: str, language: str) -> list[str]:
    """A block of code, whatever fences it holds itself."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return [f"{fence}{language}", text, fence]


def option_table(options: Iterable[OptionFacts]) -> str:
    rows = [(code(o.name), o.type, "needed" if o.required else code(literal(o.default)), o.doc) for o in options]
    return table(("option", "takes", "default", ""), rows)


def model_table(model: type[BaseModel], leave_out: tuple[str, ...] = ()) -> str:
    return option_table(o for o in describe_options(model, {}) if o.name not in leave_out)


# pages of one kind


def taxonomy_page() -> str:
    tree, published = load_tree(), load_published()
    runs = {facts["method"] for facts in shipped()}
    parts = [tree.provenance, "", f"Source: {tree.source}"]
    for node in tree:
        here = [slug for slug, file in published.items() if node.id in file.nodes]
        links = [f"[{slug}](generated/methods/{slug}.md)" if slug in runs else slug for slug in here]
        parts += ["", f"{'#' * (2 + tree.depth(node.id))} {node.id}: {node.title}", "", node.definition, ""]
        parts += [f"- {boundary}" for boundary in node.boundaries]
        if links:
            parts += ["", f"Methods: {', '.join(links)}"]
    return "\n".join(parts)


def methods_page() -> str:
    rows = [
        (
            f"[{m['method']}](generated/methods/{m['method']}.md)",
            ", ".join(map(code, m["nodes"])) or "none",
            m["fidelity"],
            markdown(f"{m['venue']} {m['year'] or ''}"),
            markdown(m["title"]),
        )
        for m in shipped()
    ]
    return table(("method", "acts at", "follows", "published", "title"), rows)


def ports_page() -> str:
    rows = []
    for name, port in STANDARD_PORTS.items():
        nodes = dict.fromkeys(node for node in port.node if node)
        rows.append((code(name), port.kind, ", ".join(map(code, nodes)), port.doc))
    return table(("port", "kind", "taxonomy", ""), rows)


def detectors_page() -> str:
    rows = []
    for name in DETECTORS:
        family = DETECTORS.get(name)
        page = f"[{name}](generated/detectors/{name}.md)"
        rows.append((page, family.family, f"{family.library} ({family.licence})", family.doc))
    return table(("detector", "family", "library", ""), rows)


def data_page() -> str:
    parts = [model_table(DataSpec)]
    for name in DATASETS:
        found = DATASETS.get(name)
        parts += ["", f"### format: {name}", "", found.doc, "", model_table(found.options)]
    return "\n".join(parts)


def augment_page() -> str:
    return model_table(Augment)


def recipe_page() -> str:
    parts = [model_table(Recipe, ("optimizer", "schedule"))]
    for title, model in (("optimizer", Optimizer), ("schedule", Schedule)):
        parts += ["", f"### {title}", "", model_table(model)]
    return "\n".join(parts)


def schedules_page() -> str:
    rows = []
    for name, function in SCHEDULES.items():
        options = [
            o.name if o.required else f"{o.name} = {literal(o.default)}"
            for o in describe_options(option_model(name), {})
        ]
        rows.append((code(name), ", ".join(map(code, options)), function.__doc__ or ""))
    return table(("schedule", "options", ""), rows)


def leaderboards_page(folder: Path = COMPARISONS) -> str:
    """One table per comparison that lies in a folder and passes its checks; the best gain first."""
    shown, refused = read_folder(folder)
    if refused:
        raise UsageError("; ".join(refused))
    parts = []
    for one in shown:
        comparison, (plain, *_) = one.file.comparison, one.file.comparison.entries
        words = [f"{told[0].upper()}{told[1:]}." for told in comparison.teachers_in_words]
        words += [f"Worth knowing: {said}." for said in warnings_of(one.file)]
        rows = [leader(one.file, plain, None), *(leader(one.file, entry, row) for entry, row in one.ranked())]
        head = ("entry", "acts at", one.metric, "gain, 95 % interval", "p, corrected", "verdict", "ms per step")
        facts = f"{comparison.title}: {comparison.settings.in_words}. {markdown(' '.join(words))}"
        parts += [f"## {comparison.name}", "", facts, ""]
        parts += [table(head, rows), "", *fenced(f"$ {comparison.settings.command}", "console"), ""]
    return "\n".join(parts)


def leader(file: File, entry: EntryRow, row: VerdictRow | None) -> tuple[str, ...]:
    """A line of a leaderboard; the plain student's has no verdict."""
    cost = file.costs.get(entry.name)
    return (
        entry.name, ", ".join(map(code, entry.nodes)) or entry.kind, entry.in_words(file.comparison.settings.metric),
        row.in_words if row else "", f"{row.adjusted:.3f}" if row and row.in_words else "", row.verdict if row else "",
        f"{cost.step_ms:.0f}" if cost and cost.step_ms else "",
    )


PAGES: dict[str, Callable[[], str]] = {
    "taxonomy.md": taxonomy_page, "methods.md": methods_page, "ports.md": ports_page, "detectors.md": detectors_page,
    "data.md": data_page, "augment.md": augment_page, "recipe.md": recipe_page, "schedules.md": schedules_page,
    "leaderboards.md": leaderboards_page,
}  # fmt: skip


# one page each


def op_page(group: str) -> str:
    parts = [f"# {group}"]
    for name in OPS.names(f"{group}.*"):
        op = describe_op(OPS.get(name))
        gives = ", ".join(f"{code(key)}: {kind}" if key else kind for key, kind in op.gives.items())
        inputs = [
            (
                code(i.name),
                i.kind + (" (several)" if i.many else ""),
                code(i.default) if i.default else "needed" if i.required else "optional",
                i.doc,
            )
            for i in op.inputs
        ]
        parts += ["", f"## {name}", "", paragraph(op.doc)]
        parts += ["", paragraph(op.details)] if op.details else []
        parts += ["", f"*{', '.join(op.flags)}*"] if op.flags else []
        parts += ["", table(("input", "takes", "default", ""), inputs)]
        parts += ["", option_table(op.options)] if op.options else []
        parts += ["", f"Gives {gives}."]
    return "\n".join(parts)


def paragraph(text: str) -> str:
    """Docstring text as Markdown; indented parts are formulas or code."""
    lines = [
        line if line.startswith("    ") else line.replace("*", "\\*") for line in text.replace("``", "`").splitlines()
    ]
    return "\n".join(lines)


def detector_page(name: str) -> str:
    family = DETECTORS.get(name)
    facts = facts_of(name, options=tiny_options(name))
    ports = [
        (
            code(p["name"]),
            p["kind"],
            code(p["node"] or ""),
            p["shape"],
            ", ".join(map(str, p["strides"])),
            p["form"],
            p["doc"],
        )
        for p in facts["ports"]
    ]
    calls = [
        (
            code(c["name"]),
            ", ".join(map(code, c["inputs"])),
            ", ".join(map(code, c["outputs"])),
            ", ".join(map(code, c["options"])),
            c["doc"],
        )
        for c in facts["calls"]
    ]
    small = ", ".join(f"{key}: {literal(value)}" for key, value in tiny_options(name).items())
    built = f", built with `{small}`" if small else ""
    if not ports:
        return "\n".join([
            f"# {name}", "", f"{facts['doc']}.", "", "## Options", "", option_table(describe_options(family.options)), "",
            "Its ports and losses are those that its options say: {doc}`../../own-detector`.",
        ])  # fmt: skip
    return "\n".join([
        f"# {name}", "", f"{facts['doc']}. A {facts['family']} detector of {facts['library']} ({facts['licence']}).", "",
        "## Options", "", option_table(describe_options(family.options)), "",
        "## Ports", "", f"Shapes are those for two images of {facts['size']} x {facts['size']}{built}.",
        "", table(("port", "kind", "taxonomy", "shape", "strides", "form", ""), ports), "",
        "## Calls", "", table(("call", "inputs", "outputs", "options", ""), calls) if calls else "None.", "",
        "## Own losses", "", ", ".join(map(code, facts["losses"])),
    ])  # fmt: skip


def tiny_options(name: str) -> dict[str, Any]:
    """Options that make the detector small, as far as it has them and its library is torchvision."""
    family = DETECTORS.get(name)
    return (
        {k: v for k, v in TINY.items() if k in family.options.model_fields} if family.library == "torchvision" else {}
    )


def method_page(facts: dict[str, Any], folder: Path) -> int:
    """The page of one method; returns 1 when it could not be drawn."""
    slug, file = facts["method"], load_published().get(facts["method"])
    path = find_method(slug)
    method = read_method(slug).resolve()
    paper = [markdown(f"{facts['venue']} {facts['year']}") if facts["venue"] else ""]
    paper += [f"[arXiv {facts['arxiv']}](https://arxiv.org/abs/{facts['arxiv']})"] if facts["arxiv"] else []
    paper += [f"code [{facts['code']}](https://github.com/{facts['code']})"] if facts["code"] else []
    source = path.read_text(encoding="utf-8").rstrip()
    parts = [
        f"# {slug}",
        "",
        markdown(facts["title"]),
        "",
        " · ".join(p for p in [*paper, f"formulas follow: {facts['fidelity']}"] if p),
        "",
    ]
    try:
        setting = prepare(read_method(slug))
    except KdflowError as error:
        print(f"{slug} is not drawn: {error}", file=sys.stderr)
        parts += [
            f"On its default bench `{method.bench}` this method does not compile here, so there is no picture.",
            "",
        ]
    else:
        write(folder / f"{slug}.svg", draw.as_svg(setting.plan))
        parts += drawn(setting, slug)
    parts += ["## Spec", "", *fenced(source, "yaml"), ""]
    if method.search:
        parts += ["## Searchable", "", table(("value", "from", "to", "choices"), search_rows(method)), ""]
    if file is not None:
        parts += ["## Published", "", *published(file)]
    write(folder / f"{slug}.md", "\n".join(parts))
    return 0 if (folder / f"{slug}.svg").is_file() else 1


def drawn(setting: Setting, slug: str) -> list[str]:
    """Picture, terms, and what never runs."""
    plan = setting.plan
    rows = [(code(t.name), ", ".join(map(code, t.nodes)), f"{t.weight:g}") for t in plan.terms if t.is_distillation]
    parts = [f"On the bench `{setting.bench.bench}`:", "", f"![graph]({slug}.svg)", ""]
    parts += ["## Terms", "", table(("term", "acts at", "weight"), rows), ""] if rows else []
    if plan.report.teacher_stages_pruned:
        parts += [f"Teacher stages that never run: {', '.join(map(code, plan.report.teacher_stages_pruned))}.", ""]
    adapters = [f"{code(name)} ({count:,} parameters)" for name, count in plan.report.adapters.items()]
    return [*parts, *([f"Trained and not exported: {', '.join(adapters)}.", ""] if adapters else [])]


def search_rows(method: Any) -> list[tuple[object, ...]]:
    return [
        (code(path), "" if r.low is None else f"{r.low:g}", "" if r.high is None else f"{r.high:g}" + (" (log)" if r.log else ""),
         literal(r.choices) if r.choices else "")
        for path, r in method.search.items()
    ]  # fmt: skip


def published(file: PublishedFile) -> list[str]:
    rows = []
    for row in file.rows:
        gain = ", ".join(f"{value:+g} {name}" for name, value in row.difference.items())
        words = [
            ", ".join(f"{name} {value:g}" for name, value in values.items())
            for values in (row.teacher_result, row.baseline, row.result)
        ]
        setting = row.setting + (f" ({row.variant})" if row.variant else "")
        source = "; ".join(row.sources) + ("" if row.verified else " (second hand)")
        rows.append((markdown(setting), *words, gain, markdown(source)))
    head = ("setting", "teacher", "plain student", "distilled", "gain", "source")
    claims = [f"- {markdown(claim)}" for claim in file.claims]
    return [table(head, rows), "", *claims] if rows else claims or ["No numbers are known."]


if __name__ == "__main__":
    missing = main()
    print(f"{GENERATED} written" + (f"; {missing} methods could not be drawn" if missing else ""))
