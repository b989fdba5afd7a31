"""``kdflow detectors``: what a bench can name as student and teacher, and what each offers to a method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdflow.cli.console import columns, plain, say, say_json
from kdflow.cli.options import JsonOption, overrides_of

if TYPE_CHECKING:
    from kdflow.ports import Detector, Port

Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="A detector; without it all are listed.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="OPTION=VALUE", help="Build it with this option, as a bench would. Repeatable."),
]


def detectors(
    name: Name = None,
    size: Annotated[int, typer.Option(min=32, help="Side of the images that shapes are shown for.")] = 128,
    sets: Sets = None,
    json: JsonOption = False,
) -> None:
    """List detectors, or show one.

    With a name: its options, its ports with shapes for two images, and its calls.
    """
    from kdflow.ports import DETECTORS

    if name is None:
        if json:
            say_json([{"name": n, **_family(n), "options": _options(n), "ports": offered(n)} for n in DETECTORS.names()])
        else:
            found = [(n, _family(n)) for n in DETECTORS.names()]
            rows = [(n, f["family"], f["library"], f["licence"], f["doc"]) for n, f in found]
            say(columns(rows, head=("detector", "family", "library", "licence", "")))
        return
    facts = facts_of(name, size, overrides_of(sets))
    if json:
        say_json(facts)
    else:
        say(plain(page(facts)))


def _family(name: str) -> dict[str, Any]:
    from kdflow.ports import DETECTORS

    family = DETECTORS.get(name)
    return {"family": family.family or "any", "library": family.library, "licence": family.licence, "doc": family.doc}


def _options(name: str) -> list[dict[str, Any]]:
    from kdflow.cli.describe import describe_options
    from kdflow.ports import DETECTORS

    return [vars(option) for option in describe_options(DETECTORS.get(name).options)]


def offered(name: str) -> list[dict[str, Any]]:
    """Ports of a detector under its default options, without shapes; none where it needs options. No weights, no memory."""
    import torch

    from kdflow.ports import DETECTORS

    if not DETECTORS.get(name).stands_alone:
        return []
    with torch.device("meta"):
        built = DETECTORS.get(name).build(classes=("a", "b"))
    return [described(port, spec) for port, spec in built.ports.items()]


def described(port: str, spec: Port) -> dict[str, Any]:
    """What a port declares, as plain data."""
    return {
        "name": port,
        "kind": spec.kind.name,
        "node": spec.node,
        "strides": list(spec.strides),
        "channels": list(spec.channels),
        "form": spec.form,
        "doc": spec.doc,
    }


def facts_of(name: str, size: int = 128, options: dict[str, Any] | None = None) -> dict[str, Any]:
    """Options, ports with shapes, calls and losses of a detector, as plain data.

    Args:
        name: Registered name.
        size: Side of the square images that shapes are inferred for.
        options: Builder options; the defaults otherwise.

    Raises:
        UnknownNameError: No such detector.
        SpecError: An option is wrong.
    """
    from kdflow.experiment.build import build_detector
    from kdflow.ports import DETECTORS
    from kdflow.spec.bench import DetectorSpec
    from kdflow.spec.load import Document

    family = DETECTORS.get(name)
    described_options = _options(name)
    if not family.stands_alone and not options:  # which ports it has is said by its options
        nothing: dict[str, Any] = {"ports": [], "calls": [], "stages": [], "losses": []}
        return {"name": name, **_family(name), "options": described_options, **nothing, "size": size}
    document = Document(name, {"student": {}})
    built = build_detector(DetectorSpec(detector=name, **(options or {})), ("a", "b"), document, "student", 0)
    document.check()
    if built is None:
        raise RuntimeError(f"{name} was not built, and nothing says why")
    shapes = port_shapes(built, size)
    return {
        "name": name,
        **_family(name),
        "options": described_options,
        "ports": [{**described(port, spec), "shape": shapes.get(port, "")} for port, spec in built.ports.items()],
        "calls": [
            {
                "name": call,
                "inputs": list(c.inputs),
                "outputs": list(c.outputs),
                "options": list(c.options),
                "doc": c.doc,
            }
            for call, c in built.calls.items()
        ],
        "stages": list(built.stages),
        "losses": list(built.losses),
        "size": size,
    }


def port_shapes(detector: Detector, size: int) -> dict[str, str]:
    """Port -> shape in words, for two images of this size (rounded up to what the detector divides by)."""
    from kdflow.graph.cost import port_values
    from kdflow.graph.passes.infer import show

    side = -(-size // detector.size_divisor) * detector.size_divisor
    return {name: show(value) for name, value in port_values(detector, (side, side)).items()}


def page(facts: dict[str, Any]) -> str:
    """One detector for people."""
    from kdflow.cli.describe import literal

    lines = [
        f"{facts['name']}: {facts['doc']}",
        f"  {facts['family']}, from {facts['library']} ({facts['licence']})",
        "",
        "options",
    ]
    options = [
        (o["name"], o["type"], "needed" if o["required"] else f"= {literal(o['default'])}", o["doc"])
        for o in facts["options"]
    ]
    lines += [columns(options, indent="  "), "", f"ports (shapes for two images of {facts['size']} x {facts['size']})"]
    ports = [
        (
            p["name"],
            p["kind"],
            p["node"] or "-",
            p["shape"] or "-",
            ", ".join(map(str, p["strides"])) or "-",
            p["form"] or "-",
            p["doc"],
        )
        for p in facts["ports"]
    ]
    head = ("port", "kind", "taxonomy", "shape", "strides", "form", "")
    lines += [columns(ports, head, "  ") if ports else "  those that its options say", "", "calls"]
    calls = [
        (
            c["name"],
            ", ".join([*c["inputs"], *(f"{o}=" for o in c["options"])]),
            f"-> {', '.join(c['outputs'])}",
            c["doc"],
        )
        for c in facts["calls"]
    ]
    losses = ", ".join(facts["losses"]) or "those that its options say"
    return "\n".join([*lines, columns(calls, indent="  ") or "  none", "", "losses", f"  {losses}"])
