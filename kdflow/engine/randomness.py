"""Random generators of this process: seeding by address, saving, and leaving them as they were found."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def address(*parts: object) -> int:
    """A 63-bit seed that depends on every part, the same on every machine and in every process."""
    text = "\0".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def seed_generators(*parts: object) -> None:
    """Seed Python's, numpy's and torch's global generators with the address of ``parts``."""
    seed = address(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def generator_state() -> dict[str, Any]:
    """State of all global generators, in types that ``torch.load(weights_only=True)`` reads."""
    legacy: Any = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (legacy[0], torch.from_numpy(legacy[1].astype(np.int64)), *legacy[2:]),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_generator_state(state: dict[str, Any]) -> None:
    """Continue from a state made by :func:`generator_state`."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def generators_untouched(*seed: object) -> Iterator[None]:
    """What is drawn inside does not move the generators outside; with ``seed`` the inside starts from that address."""
    before = generator_state()
    try:
        if seed:
            seed_generators(*seed)
        yield
    finally:
        set_generator_state(before)
