"""What the commands that time a pair of detectors share: their options, and how they print."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from benchmarks import common, variants
from kdflow.engine.machine import Machine, open_machine
from kdflow.errors import KdflowError

PAIR = "tiny, r50-r18, or a bench by name or file"


def parser(name: str, doc: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """A parser with the options that every such command has.

    Args:
        name: Of the module in ``benchmarks``.
        doc: Its docstring.
        defaults: Values that the command has otherwise.
    """
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--pair", default="tiny", help=PAIR)
    made.add_argument("--size", type=int, help="side of the images; the pair's own if left out")
    made.add_argument("--batch", type=int, default=2)
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--threads", type=int)
    made.add_argument("--rounds", type=int, default=50)
    made.add_argument("--warmup", type=int, default=5)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--json", action="store_true")
    made.set_defaults(**defaults)
    return made


def precision_option(made: argparse.ArgumentParser) -> None:
    """``--precision`` of the steps."""
    made.add_argument("--precision", choices=tuple(variants.PRECISIONS), default="fp32")


def clock_option(made: argparse.ArgumentParser) -> None:
    """``--clock`` that is read."""
    words = "cpu: seconds of this process alone, for a busy machine"
    made.add_argument("--clock", choices=tuple(common.CLOCKS), default="wall", help=words)


def run(
    options: argparse.Namespace,
    measure: Callable[[argparse.Namespace, Machine], Any],
    as_text: Callable[[Any], str],
) -> None:
    """Measure on the machine that the options name, and print as JSON or as text.

    Raises:
        SystemExit: With one message where the options are refused or the variants disagree.
    """
    common.parse_threads(options.threads)
    try:
        with open_machine(options.device) as machine:
            result = measure(options, machine)
    except (KdflowError, variants.DisagreementError) as error:
        raise SystemExit(str(error)) from None
    print(json.dumps(result, indent=1) if options.json else as_text(result))
