"""The page: one HTML file, no script, nothing loaded, pictures embedded; every name is text."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from importlib.resources import files

from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from kdflow.html import Html, el, join
from kdflow.results.report.charts import svg
from kdflow.results.report.page import POLICY
from kdflow.results.report.tables import number, table
from kdflow.using.drawn import Box, colour_of, draw
from kdflow.using.look.gather import Facts, Side, Story, recalls
from kdflow.using.look.heat import Heat, over
from kdflow.using.look.matching import NOTHING, Entry
from kdflow.using.sights import sights

WIDTH, MOST_CLASSES = 300, 20
GOOD, BAD, LACKING = (30, 160, 80), (214, 60, 40), (240, 170, 20)
SIZES: Mapping[str, str] = {"AP_S": "small objects", "AP_M": "medium objects", "AP_L": "large objects"}


def page(facts: Facts, heat: Heat | None = None) -> str:
    """The whole document."""
    sections = [
        ("numbers", "Numbers", _numbers(facts)),
        ("curves", "Precision and recall", _curves(facts)),
        ("confusion", "Confusion", _confusion(facts)),
        *((f"story-{k}", story.title, _story(facts, story, heat)) for k, story in enumerate(facts.stories)),
    ]
    name = f"{facts.saved.method.method} on {facts.saved.bench.bench}, seed {facts.saved.seed}"
    style = files("kdflow.results.report").joinpath("style.css").read_text(encoding="utf-8") + _STYLE
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("title", name),
        el("link", rel="icon", href="data:,"),
        el("style", Html(style)),
    )
    links = el("ul", [el("li", el("a", title, href=f"#{key}")) for key, title, _ in sections])
    body = el(
        "body",
        el("a", "Skip to the numbers", href="#numbers", class_="skip"),
        _header(facts, name),
        el("nav", links, aria_label="Sections"),
        el(
            "main",
            [el("section", el("h2", title), content, id=key, aria_label=title) for key, title, content in sections],
        ),
        el("footer", el("p", f"Made by kdflow from {facts.saved.folder.name}.")),
    )
    return f"<!doctype html>\n{el('html', head, body, lang='en')}\n"


_STYLE = """
.looks { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .6rem; }
.looks figure { margin: 0; padding: .4rem; }
.looks img { display: block; width: 100%; height: auto; }
td.hot { background: color-mix(in srgb, var(--mark) calc(var(--share) * 1%), transparent); }
main, header, footer, nav ul { max-width: 84rem; }
#numbers .wide { margin-bottom: 1.2rem; }
"""


def _header(facts: Facts, name: str) -> Html:
    words = (
        f"Detections of the test split, {len(facts.images)} pictures. Drawn and matched are those with a score of at least "
        f"{facts.threshold:g}; a match has the same class and an IoU of at least 0.5. Detections that match are green, others "
        "red; objects that are missed are dashed."
    )
    tiles = [
        el("li", el("b", f"{side.evaluation.metrics.get('AP', 0.0):.1f}"), f"AP of the {side.name}")
        for side in facts.sides
    ]
    return el(
        "header",
        el("h1", name),
        el("p", words, class_="soft"),
        [el("p", note, class_="soft") for note in facts.notes],
        el("ul", tiles, class_="facts"),
    )


def _numbers(facts: Facts) -> Html:
    """AP of every side, over all, by size and by class, and what part of the gap was closed."""
    head = ("", *(side.name for side in facts.sides), *(("gain", "gap closed") if len(facts.sides) > 1 else ()))
    rows = [
        _row(words, [side.evaluation.metrics.get(key) for side in facts.sides], facts)
        for key, words in _METRICS.items()
        if any(key in side.evaluation.metrics for side in facts.sides)
    ]
    classes = []
    for name, numbers in facts.sides[0].evaluation.classes.items():
        values = [side.evaluation.classes.get(name, {}).get("AP") for side in facts.sides]
        classes.append(_row(f"{name} ({numbers.get('objects', 0):g})", values, facts))
    lost = [n for n, one in facts.sides[0].evaluation.classes.items() if one.get("objects") and one.get("AP") == 0]
    warning = el("p", "The student finds nothing of: ", ", ".join(lost), ".") if lost else None
    return join(
        table(head, rows, "AP on the test split, in percent"),
        warning,
        table(("class (objects)", *head[1:]), classes, "AP by class"),
    )


_METRICS: Mapping[str, str] = {
    "AP": "AP",
    "AP50": "AP at IoU 0.5",
    "AP75": "AP at IoU 0.75",
    **{k: f"AP, {v}" for k, v in SIZES.items()},
}


def _row(words: str, values: Sequence[float | None], facts: Facts) -> Html:
    names = [side.name for side in facts.sides]
    known = {name: value for name, value in zip(names, values) if value is not None}
    student, plain = known.get("student"), known.get("plain student")
    teacher = max((value for name, value in known.items() if name not in ("student", "plain student")), default=None)
    gain = "" if student is None or plain is None else f"{student - plain:+.2f}"
    share = ""
    if student is not None and plain is not None and teacher is not None and teacher > plain:
        share = f"{100 * (student - plain) / (teacher - plain):.0f} %"
    cells = [number("" if value is None else f"{value:.2f}") for value in values]
    compared = [number(gain), number(share)] if len(facts.sides) > 1 else []
    return el("tr", el("th", words, scope="row"), cells, compared)


def _curves(facts: Facts) -> Html:
    """Precision over recall at IoU 0.5, all sides in one picture."""
    left, right, top, bottom = 46, 470, 10, 300
    across = [left + (right - left) * value for value in recalls()]
    lines, legend = [], []
    for k, side in enumerate(facts.sides):
        if not side.curve or min(side.curve) < 0:
            continue
        points = " ".join(f"{x:.1f},{bottom - (bottom - top) * y:.1f}" for x, y in zip(across, side.curve))
        lines.append(el("polyline", points=points, fill="none", stroke=f"var(--part{k + 1})", stroke_width="2.5"))
        mark = el(
            "svg", el("rect", width=12, height=12, fill=f"var(--part{k + 1})"), viewBox="0 0 12 12", aria_hidden="true"
        )
        legend.append(el("li", mark, f" {side.name}, AP50 {side.evaluation.metrics.get('AP50', 0.0):.1f}"))
    grid = [
        join(
            el(
                "line", x1=left, x2=right, y1=bottom - (bottom - top) * v, y2=bottom - (bottom - top) * v, class_="grid"
            ),
            el("text", f"{v:g}", x=left - 8, y=bottom - (bottom - top) * v + 4, text_anchor="end"),
            el("text", f"{v:g}", x=left + (right - left) * v, y=bottom + 16, text_anchor="middle"),
        )
        for v in (0, 0.25, 0.5, 0.75, 1)
    ]
    words = el("text", "recall", x=(left + right) / 2, y=bottom + 34, text_anchor="middle", class_="soft")
    title = "Precision over recall at IoU 0.5, averaged over classes"
    return el(
        "figure",
        svg(490, 345, title, grid, lines, words),
        el("ul", legend, class_="legend"),
        el("figcaption", title, "."),
    )


def _confusion(facts: Facts) -> Html:
    return join(
        [
            el("details", el("summary", side.name), _matrix(facts, side), open=k == 0)
            for k, side in enumerate(facts.sides)
        ]
    )


def _matrix(facts: Facts, side: Side) -> Html:
    """Rows are objects, columns what they were taken for; classes with the most of either come first where there are many."""
    pairs = side.pairs
    weight = {key: sum(n for pair, n in pairs.items() if key in pair) for key in facts.classes}
    shown = sorted(sorted(facts.classes, key=lambda key: -weight[key])[:MOST_CLASSES])
    keys = [*shown, NOTHING]
    rows = []
    for real in keys:
        total = sum(pairs[real, claimed] for claimed in keys) or 1
        cells = [
            el(
                "td",
                str(pairs[real, claimed] or ""),
                class_="num hot",
                style=f"--share: {round(70 * pairs[real, claimed] / total)}",
            )
            for claimed in keys
        ]
        rows.append(el("tr", el("th", facts.classes.get(real, "nothing"), scope="row"), cells))
    head = ("object", *(facts.classes.get(key, "not found") for key in keys))
    left = len(facts.classes) - len(shown)
    words = f"What objects were taken for, {side.name}" + (
        f"; {left} classes with fewer of them are left out" if left else ""
    )
    return table(head, rows, words)


def _story(facts: Facts, story: Story, heat: Heat | None) -> Html:
    return join(el("p", story.words), [_picture(facts, story, key, heat) for key in story.images])


def _picture(facts: Facts, story: Story, key: int, heat: Heat | None) -> Html:
    """One picture as everybody sees it."""
    sight = next(sights([facts.files[key]], facts.saved.pictures.upright))
    picture = transforms.to_pil_image(sight.image)
    objects = facts.truth[key]
    plural = "1 object" if len(objects) == 1 else f"{len(objects)} objects"
    looks = [_look(picture, [_object(facts, one) for one in objects], "ground truth", plural)]
    for side in [*facts.sides[1:], facts.sides[0]]:
        matched = side.matched[key]
        words = f"{len(matched.found)} found, {len(matched.missed)} missed, {len(matched.false)} wrong"
        looks.append(_look(picture, _boxes(facts, side, key), side.name, words))
    for words, seen in heat.maps(sight.image, objects) if heat else ():
        looks.append(_look(over(picture, seen), [], heat.node if heat else "", words))
    count = story.counts.get(key)
    return el(
        "div",
        el("h3", facts.images[key]["file_name"], el("span", f" {count}" if count else "", class_="soft")),
        el("div", looks, class_="looks"),
        class_="card",
    )


def _boxes(facts: Facts, side: Side, key: int) -> list[Box]:
    """Right detections green, wrong ones red, missed objects dashed."""
    matched = side.matched[key]
    wrong = {id(one) for one in matched.false}
    lacking = [one for one in facts.truth[key] if one["id"] in matched.missed]
    seen = sorted((one for one in side.by_image[key] if one["score"] >= facts.threshold), key=lambda one: one["score"])
    return [
        *(Box(_corners(one), "", LACKING, dashed=True) for one in lacking),
        *(
            Box(
                _corners(one),
                f"{facts.classes[one['category_id']]} {one['score']:.2f}",
                BAD if id(one) in wrong else GOOD,
            )
            for one in seen
        ),
    ]


def _object(facts: Facts, one: Entry) -> Box:
    colour = (128, 128, 128) if one["iscrowd"] else colour_of(one["category_id"])
    return Box(_corners(one), facts.classes[one["category_id"]], colour, dashed=bool(one["iscrowd"]))


def _corners(one: Entry) -> tuple[float, float, float, float]:
    x, y, width, height = one["bbox"]
    return x, y, x + width, y + height


def _look(picture: Image.Image, boxes: Sequence[Box], name: str, words: str) -> Html:
    scale = max(WIDTH / picture.width, 1.0) if picture.width < WIDTH else min(1.0, 2 * WIDTH / picture.width)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    scaled = [Box(tuple(side * scale for side in box.corners), box.words, box.colour, box.dashed) for box in boxes]  # type: ignore[arg-type]
    shown = draw(picture.convert("RGB").resize(size), scaled)
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=82)
    source = "data:image/jpeg;base64," + b64encode(buffer.getvalue()).decode()
    image = el("img", src=source, alt=f"{name}: {words}", loading="lazy", width=size[0], height=size[1])
    return el("figure", image, el("figcaption", el("b", name), f" {words}"))
