"""Files of weights as people have them: an unmistakable state dict is taken and said, all else is told by what it holds."""

from __future__ import annotations

import io
import logging
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from kdflow.errors import UsageError

PREFIXES = ("module.", "_orig_mod.")
"""What wrappers of the same model put before every name: DistributedDataParallel, torch.compile."""

_log = logging.getLogger("kdflow.weights")
_TEXTS = {
    b"version https://git-lfs": "it is a Git LFS pointer, not the weights it stands for. Next: git lfs pull, in its repository",
    b"<": "it is a web page or XML. Next: download the file again, by its direct link",
    b"{": "it is JSON text. Next: name the file with the tensors",
}
_SHOWN = 12
_AVERAGED = re.compile(r"(^|[._])ema($|[._])", re.IGNORECASE)
"""Names of weights that are averaged over training: ``ema``, ``model_ema``, ``ema_state_dict``."""


def read_state(file: Path, option: str = "weights", entry: str | None = None) -> dict[str, Tensor]:
    """The state dict in a file: itself, the only one among the entries of a checkpoint, or of several the averaged one.

    Args:
        file: ``torch.save`` or safetensors, told apart by content.
        option: The key that named the file, for messages.
        entry: Which of several is taken, by its keys joined with dots (``ema.module``).

    Raises:
        UsageError: The file holds no state dict of plain tensors, or several of which none is chosen; says what it holds and what
            to do.
    """
    name = f'{option} "{file}"'
    content = _read(file, name)
    paths = dict(_state_dicts(content))
    found = {".".join(path): state for path, state in paths.items()}
    if entry is None and set(found) == {""}:
        return dict(found[""])
    if found:
        alone = _cut(file, next(iter(paths)))
        return dict(found[_chosen(found, entry, name, option, alone)])
    if isinstance(content, Mapping):
        raise UsageError(
            f"{name}: this is no state dict (a mapping from parameter names to tensors), and none of its entries is one; "
            f"it holds {_listed(content)}"
        )
    raise UsageError(f"{name}: this is no state dict (a mapping from parameter names to tensors) but a {_sort(content)}")


def _chosen(found: Mapping[str, Any], entry: str | None, name: str, option: str, alone: str) -> str:
    """The entry that is taken, which is said: what was averaged over training, where there are several.

    Args:
        found: State dicts by their keys joined with dots.
        entry: The one that was asked for.
        name: The file, as messages call it.
        option: The key that named it; ``weights`` alone has one beside it that chooses.
        alone: Python that writes one of them into a file of its own.
    """
    listed = _listed(found)
    if entry is not None:
        if entry in found:
            return entry
        holds = "is a state dict itself" if set(found) == {""} else f"holds the state dicts {listed}"
        raise UsageError(f"{option}_entry: {entry} is no entry of the file: {name} {holds}")
    averaged = list(found) if len(found) == 1 else [path for path in found if _AVERAGED.search(path)]
    if len(averaged) == 1:
        others = "" if len(found) == 1 else f", the averaged one of {listed}"
        _log.warning("%s: the state dict is taken from its entry %s%s", name, averaged[0], others)
        return averaged[0]
    move = " or ".join(f"{option}_entry: {path}" for path in found) if option == "weights" else alone
    raise UsageError(f"{name} holds {len(found)} state dicts: {listed}. kdflow does not choose among them. Next: {move}")


def without_prefix(state: Mapping[str, Tensor], own: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """The state without what a wrapper of the same model put before every name, which is said.

    Args:
        state: As read.
        own: The state dict of the model that takes it; names that have the prefix there, too, keep it.
        source: The file, for the message.
    """
    result, taken = dict(state), ""
    while prefix := _wrapper(result, own):
        result = {key.removeprefix(prefix): value for key, value in result.items() if key.startswith(prefix)}
        taken += prefix
    if taken:
        _log.warning('weights "%s": %s is left out before every name', source, taken)
    return result


def _wrapper(state: Mapping[str, Tensor], own: Mapping[str, Any]) -> str:
    # torch's AveragedModel counts its updates beside the model that it wraps.
    names = [key for key in state if key != "n_averaged"]
    for prefix in PREFIXES:
        if names and all(key.startswith(prefix) for key in names) and not any(key.startswith(prefix) for key in own):
            return prefix
    return ""


def _read(file: Path, name: str) -> Any:
    try:
        with file.open("rb") as stream:
            head = stream.read(64)
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror or error}") from error
    if not head:
        raise UsageError(f"{name} is empty. Next: fetch the file again")
    for start, words in _TEXTS.items():
        if head.lstrip().startswith(start):
            raise UsageError(f"{name} is no file of tensors: {words}")
    try:
        if _is_safetensors(head, file):
            from safetensors.torch import load_file

            return load_file(file)
        with file.open("rb") as stream:  # by its name, torch would go by the ending
            return torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UsageError(_refused(file, name, error)) from error


def _is_safetensors(head: bytes, file: Path) -> bool:
    """By content: the length of a JSON header comes first. A broken file is what its ending says."""
    starts = head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= file.stat().st_size
    return starts or (file.suffix == ".safetensors" and not head.startswith((b"PK", b"\x80")))


def _state_dicts(content: Any, path: tuple[str, ...] = (), depth: int = 2) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Keys that lead to a state dict, and the state dict; none where the whole is one."""
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        return
    if all(isinstance(value, Tensor) for value in content.values()):
        yield path, content
    elif depth:
        for key, value in content.items():
            yield from _state_dicts(value, (*path, key), depth - 1)


def _refused(file: Path, name: str, error: Exception) -> str:
    """Why torch does not read the file: what it holds besides tensors, where an outline of it can be had."""
    outline = _outline(file)
    if outline is None:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return f"{name} cannot be read as a file of plain tensors: {reason}"
    words = f"{name} holds Python objects besides tensors, which kdflow does not load because loading them runs their code"
    if isinstance(outline, Mapping):
        states = [_cut(file, path) for path, _ in _state_dicts(outline)]
        models = [_cut(file, (str(key),), ".state_dict()") for key, value in outline.items() if _is_model(value)]
        return f"{words}; its entries: {_listed(outline)}" + "".join(f". Next: {cut}" for cut in (states + models)[:1])
    return f"{words}; it is a {_sort(outline)}. Next: {_cut(file, (), '.state_dict()')}"


def _is_model(value: Any) -> bool:
    return isinstance(value, Opaque) and "_parameters" in value.state


def _cut(file: Path, path: tuple[str, ...], call: str = "") -> str:
    """A line of Python that writes one part of a file as a state dict."""
    part = "".join(f"[{key!r}]" for key in path)
    target = file.with_name(f"{file.stem}-state.pt")
    return (
        "for a file that you trust, in Python: "
        f"import torch; torch.save(torch.load({str(file)!r}, 'cpu', weights_only=False){part}{call}, {str(target)!r})"
    )


def _listed(content: Mapping[Any, Any]) -> str:
    shown = [f"{key} ({_sort(value)})" for key, value in list(content.items())[:_SHOWN]]
    return (", ".join(shown) + (", ..." if len(content) > _SHOWN else "")) or "nothing"


def _sort(value: Any) -> str:
    if isinstance(value, Opaque):
        return value.name
    if isinstance(value, Mapping) and value and all(isinstance(v, Tensor) for v in value.values()):
        return f"{len(value)} tensors"
    return type(value).__name__


class Opaque:
    """Stands for any object of a pickle; runs nothing.

    Attributes:
        name: ``module.Class`` as the pickle names it.
        state: Its attributes.
    """

    name = "object"
    state: Mapping[Any, Any] = MappingProxyType({})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, Mapping) else {}

    def __call__(self, *args: Any, **kwargs: Any) -> Opaque:
        """What it would make is opaque, too."""
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        """Takes entries of dicts that are no dicts."""

    def append(self, value: Any) -> None:
        """Takes entries of lists that are no lists."""

    def extend(self, values: Any) -> None:
        """Takes entries of lists that are no lists."""


class _Outliner(pickle._Unpickler):
    """Reads the shape of a pickle: dicts, keys and numbers as they are, tensors as empty ones, all other objects as opaque."""

    def find_class(self, module: str, name: str, /) -> Any:
        """Never imports anything."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name.startswith(("_rebuild_tensor", "_rebuild_parameter")):
            return _empty
        return type(name, (Opaque,), {"name": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        """Storages stay where they are."""
        return None


def _empty(*args: Any) -> Tensor:
    return torch.empty(0)


def _outline(file: Path) -> Any:
    """What a checkpoint of torch holds, without running anything in it; None where that cannot be told."""
    try:
        with _pickle_of(file) as stream:
            whole = _Outliner(stream).load()
            # The older format: a magic number, a version and facts of the system come first, each a pickle of its own.
            for _ in range(3) if isinstance(whole, int) else ():
                whole = _Outliner(stream).load()
    except Exception:  # bytes of any sort
        return None
    return whole if isinstance(whole, (Mapping, Opaque)) else None


def _pickle_of(file: Path) -> Any:
    if not zipfile.is_zipfile(file):
        return file.open("rb")
    with zipfile.ZipFile(file) as archive:
        inner = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        return io.BytesIO(archive.read(inner))
