"""What modules inside a model give, seen by hooks for the time of one call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

Seen = dict[str, list[Any]]


@contextlib.contextmanager
def tapped(taps: Mapping[str, nn.Module], after: Callable[[Seen], None] | None = None) -> Iterator[Callable[[], Seen]]:
    """Collect outputs of modules called inside the context: path -> outputs in the order of the calls.

    Args:
        taps: Path -> module.
        after: Called with what was seen after every output.

    Raises:
        RuntimeError: A tapped tensor was overwritten in place afterwards, which would silently change what a method compares.
    """
    outputs: Seen = {path: [] for path in taps}
    versions: dict[str, list[int]] = {path: [] for path in taps}

    def keep(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            outputs[path].append(output)
            versions[path].append(getattr(output, "_version", 0))
            if after is not None:
                after(outputs)

        return hook

    def results() -> Seen:
        for path, seen in outputs.items():
            if any(getattr(output, "_version", 0) != version for output, version in zip(seen, versions[path])):
                raise RuntimeError(
                    f'the output of "{path}" is overwritten in place by the next layer; tap that layer instead'
                )
        return outputs

    handles = [module.register_forward_hook(keep(path)) for path, module in taps.items()]
    try:
        yield results
    finally:
        for handle in handles:
            handle.remove()


def joined(outputs: list[Any]) -> Any:
    """The one output of a module that runs once, else the list of its outputs."""
    return outputs[0] if len(outputs) == 1 else outputs
