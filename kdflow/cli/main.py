"""``kdflow COMMAND``: puts the commands together and turns errors into messages and exit codes.

Nothing heavy is imported here: torch, MLflow and the detectors' libraries are imported by the commands that need them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from kdflow.cli import (
    ablate,
    benches,
    check,
    compare,
    data,
    detectors,
    diff,
    doctor,
    evaluate,
    explain,
    export,
    look,
    matrix,
    methods,
    new,
    ops,
    predict,
    probe,
    report,
    results,
    run,
    schema,
    search,
    sweep,
    taxonomy,
    vocabulary,
)
from kdflow.cli.console import note
from kdflow.collector import seldom_collecting
from kdflow.errors import InvariantError, KdflowError, LostProcessError
from kdflow.files import DISK, NEXT, reason_of

GOOD, FAULT, MISTAKE, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="kdflow",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Declare a knowledge-distillation method for object detectors in one YAML file, and run it.",
)
app.command("run")(run.run)
app.command("check")(seldom_collecting()(check.check))
app.command("explain")(seldom_collecting()(explain.explain))
app.command("probe")(probe.probe)
app.command("diff")(seldom_collecting()(diff.diff))
app.command("search")(search.search)
app.command("sweep")(sweep.sweep)
app.command("ablate")(ablate.ablate)
app.command("compare")(compare.compare)
app.command("matrix")(seldom_collecting()(matrix.matrix))
app.command("results")(results.results)
app.command("report")(report.report)
app.command("predict")(predict.predict)
app.command("eval")(evaluate.evaluate)
app.command("export")(export.export)
app.command("look")(look.look)
app.command("new")(new.new)
app.command("methods")(seldom_collecting()(methods.methods))
app.command("taxonomy")(taxonomy.taxonomy)
app.command("ops")(seldom_collecting()(ops.ops))
app.command("kinds")(vocabulary.kinds)
app.command("schedules")(vocabulary.schedules)
app.command("detectors")(seldom_collecting()(detectors.detectors))
app.command("benches")(seldom_collecting()(benches.benches))
app.add_typer(data.app, name="data")
app.command("schema")(schema.schema)
app.command("doctor")(doctor.doctor)


def _version(asked: bool) -> None:
    if asked:
        from kdflow import __version__

        typer.echo(f"kdflow {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Declare a knowledge-distillation method for object detectors in one YAML file, and run it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0 is good, 2 a mistake of the user (wrong option, spec, data), 1 a fault (a run that failed, an unexpected error). With
    ``KDFLOW_TRACEBACK=1`` errors keep their traceback.

    Args:
        arguments: Words behind ``kdflow``; none takes those of the process.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="kdflow")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else GOOD if end.code is None else FAULT
    except KeyboardInterrupt:
        note("interrupted")
        return INTERRUPTED
    except Exception as error:
        return _tell(error)
    return GOOD


def _tell(error: Exception) -> int:
    """One message on stderr, and the exit code that belongs to it."""
    if os.environ.get("KDFLOW_TRACEBACK"):
        import traceback

        note("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, KdflowError):
        note(str(error))
        return FAULT if isinstance(error, (InvariantError, LostProcessError)) else MISTAKE
    if isinstance(error, OSError) and error.errno in DISK:
        note(f"{error.filename or 'a file'} cannot be written: {reason_of(error)}. {NEXT}")
        return MISTAKE
    words = (str(error).strip().splitlines() or [""])[0]
    note(f"kdflow failed: {type(error).__name__}: {words} (KDFLOW_TRACEBACK=1 shows where)")
    return FAULT


if __name__ == "__main__":
    sys.exit(main())
