"""What notebooks get beside plain Python: bars for runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from kdflow.events import Hook

T = TypeVar("T")


def with_bars(run: Callable[..., T]) -> Callable[..., T]:
    """``kdflow.run`` that shows in a notebook what the command line shows in a terminal; elsewhere nothing changes."""

    @wraps(run)
    def shown(spec: Any, *, hooks: Sequence[Hook] = (), **options: Any) -> T:
        return run(spec, hooks=(*hooks, *bars_for(spec, options.get("seed", 0))), **options)

    return shown


def bars_for(spec: Any, seed: int) -> tuple[Hook, ...]:
    """A hook with a bar in a notebook; none elsewhere."""
    from rich.console import Console

    console = Console()
    if not console.is_jupyter:
        return ()
    from kdflow.cli.progress import ProgressHook

    name = Path(spec).stem if isinstance(spec, (str, Path)) else str(getattr(spec, "name", "run"))
    return (ProgressHook(f"{name}, seed {seed}", console=console),)
