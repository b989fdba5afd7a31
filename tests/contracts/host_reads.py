"""Counts, on a CPU, what would make the host wait for a GPU.

Tensors are followed by where they would lie. On the host are those made of Python or NumPy values or by a factory without
``device=``, copied there (``cpu``), or computed from such tensors alone; everything else is on the device. These count, one each:

- **a read**: a value or a size of a device tensor comes to the host: ``item`` (also behind ``bool``, ``int`` and branches),
  ``tolist``, ``cpu``, and every op whose result has as many rows as the data says (``nonzero``, an index by a mask, ``unique``,
  ``repeat_interleave`` without a size, non-maximum suppression);
- **an upload**: a tensor of the host goes to the device: by ``to``, by a factory of Python values with ``device=``, as an index.
  From pageable memory torch waits for it.

Numbers that Python hands to an op (``x + 1``, ``full``, ``fill_``) travel as arguments of a kernel and are free, and so are
tensors of a single number, which kernels take as an argument too. What lies on the host from before the first pass is not
known, so a first pass runs under the same counter.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.weak import WeakIdKeyDictionary

import kdflow

OWN = f"{Path(kdflow.__file__).parent}{os.sep}"
"""Where the package lies: a checkout of any name has other folders beside it."""

READS = {
    "_local_scalar_dense", "nonzero", "masked_select", "_unique", "_unique2", "unique_consecutive", "unique_dim", "bincount",
    "equal", "nms",
}  # fmt: skip
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put")
FROM_PYTHON = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}
FACTORIES = {
    torch.zeros, torch.ones, torch.full, torch.empty, torch.arange, torch.linspace, torch.eye, torch.rand, torch.randn,
    torch.randperm, torch.randint,
}  # fmt: skip


class HostReads:
    """What was counted.

    Attributes:
        places: (what, place in the code) -> times.
    """

    def __init__(self) -> None:
        self.places: Counter[tuple[str, str]] = Counter()
        self._host = WeakIdKeyDictionary()

    @contextmanager
    def counted(self) -> Iterator[HostReads]:
        """Count inside, from zero."""
        self.places.clear()
        # torch.from_numpy is hidden from modes.
        with _Calls(self), _Ops(self), patch.object(torch, "from_numpy", self._from_numpy(torch.from_numpy)):
            yield self

    def _from_numpy(self, make: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
        return lambda values: self.to_host(make(values))

    @property
    def count(self) -> int:
        """All of it."""
        return sum(self.places.values())

    def note(self, what: str) -> None:
        """One more, at the place in the code that asked for it."""
        self.places[what, _place()] += 1

    def on_host(self, tensor: Any) -> bool:
        """True for tensors that would lie on the host."""
        return isinstance(tensor, Tensor) and tensor in self._host

    def to_host(self, tensor: Tensor) -> Tensor:
        """Say that a tensor lies there."""
        self._host[tensor] = True
        return tensor

    def __str__(self) -> str:
        return "\n".join(f"{times:5} {what:20} {place}" for (what, place), times in self.places.most_common())


class _Ops(TorchDispatchMode):
    """Ops whose result is read, or sized by data; where results lie. Sees what autograd does, too."""

    def __init__(self, found: HostReads) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, found, name = kwargs or {}, self.found, func.overloadpacket.__name__
        tensors = [t for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)]
        host = bool(tensors) and all(map(found.on_host, tensors))
        if not host:
            self._look(name, args, kwargs)
        result = func(*args, **kwargs)
        if host:
            for tensor in tree_iter(result):
                if isinstance(tensor, Tensor):
                    found.to_host(tensor)
        return result

    def _look(self, name: str, args: Any, kwargs: Any) -> None:
        if name in READS or (name == "repeat_interleave" and not kwargs.get("output_size")):
            self.found.note(name)
        if name in INDEXING:
            indices = [i for i in args[1] if i is not None]
            if _by_mask(args, indices):
                self.found.note(f"{name} by a mask")
            if any(self.found.on_host(i) for i in indices):
                self.found.note(f"{name} by an index of the host")


def _by_mask(args: Any, indices: list[Tensor]) -> bool:
    """Writing one number through one mask is a masked fill, which needs no index."""
    if not any(i.dtype in (torch.bool, torch.uint8) for i in indices):
        return False
    fills = len(args) > 2 and args[2].numel() == 1 and len(indices) == 1 and not (len(args) > 3 and args[3])
    return not fills


class _Calls(TorchFunctionMode):
    """Calls of Python that are no op on a CPU, and factories."""

    def __init__(self, found: HostReads) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, found = kwargs or {}, self.found
        if func is nn.functional.one_hot and (len(args) > 1 or kwargs.get("num_classes", -1) >= 0):
            with _Free():  # torch looks at the values on a CPU only
                return func(*args, **kwargs)
        if func is Tensor.tolist and not found.on_host(args[0]):
            found.note("tolist")
        elif func is Tensor.cpu or (func is Tensor.to and "cpu" in args[1:]):
            if not found.on_host(args[0]):
                found.note("cpu")
            return found.to_host(func(*args, **kwargs).detach())
        elif func in (Tensor.to, Tensor.pin_memory) and found.on_host(args[0]):
            if _names_device(args[1:], kwargs):
                found.note("upload")
                sent = func(*args, **kwargs).clone()
                del found._host[sent]
                return sent
        elif func in FROM_PYTHON:
            return self._made(func, args, kwargs)
        elif func in (Tensor.__getitem__, Tensor.__setitem__) and _lists(args[1]) and not found.on_host(args[0]):
            found.note("index by a list")
        elif func in FACTORIES and kwargs.get("device") is None:
            return found.to_host(func(*args, **kwargs))
        return func(*args, **kwargs)

    def _made(self, func: Any, args: Any, kwargs: Any) -> Any:
        result = func(*args, **kwargs)
        data = args[1 if func is Tensor.new_tensor else 0] if args else kwargs["data"]
        if isinstance(data, Tensor):
            return result
        beside_host = func is not Tensor.new_tensor or self.found.on_host(args[0])
        if beside_host and kwargs.get("device") is None:
            return self.found.to_host(result)
        self.found.note(func.__name__)
        return result


class _Free(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        modes = torch.utils._python_dispatch._disable_current_modes
        with modes():
            return func(*args, **(kwargs or {}))


def _lists(index: Any) -> bool:
    return any(isinstance(i, list) for i in (index if isinstance(index, tuple) else (index,)))


def _names_device(args: Any, kwargs: Any) -> bool:
    return any(isinstance(a, (torch.device, str, Tensor)) for a in (*args, *kwargs.values()))


def _place() -> str:
    """The innermost lines of this project and of the library under it."""
    frame, library = sys._getframe(2), ""
    while frame is not None:
        file = frame.f_code.co_filename
        where = f"{file.partition('site-packages/')[2] or file}:{frame.f_lineno}"
        if file.startswith(OWN):
            return f"kdflow/{file.removeprefix(OWN)}:{frame.f_lineno}{f' > {library}' if library else ''}"
        if not library and "host_reads" not in file and "/torch/" not in file:
            library = where
        frame = frame.f_back  # type: ignore[assignment]
    return library or "backward"
