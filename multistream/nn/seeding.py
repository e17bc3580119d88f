"""Seeds torch's global generators from (seed, step) or (seed, key, part)."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_ALONE = threading.RLock()
"""Held while torch's generators are seeded: all threads of a process share them."""


@contextmanager
def seeded(seed: int, *, step: int, rank: int = 0, device: torch.device | None = None) -> Iterator[None]:
    """Seeds torch's global generators from (seed, step, rank) in the block; restores their states afterwards.

    A plugin's module draws from the global generators (`nn.Dropout` has no generator argument). Around the forward of a
    training step this makes its draws independent of all earlier draws: a recipe is reproducible, and a resumed run
    draws the same numbers as an uninterrupted one. `device` is the network's device, whose generator is seeded too.
    `rank` gives processes with different images different masks.

    >>> def draw(step):
    ...     with seeded(0, step=step):
    ...         return torch.rand(()).item()
    >>> draw(1) == draw(1), draw(1) == draw(2)
    (True, False)
    """
    with _seeded(f"{seed}/{step}/{rank}", device):
        yield


@contextmanager
def initializing(seed: int, key: str, part: str) -> Iterator[None]:
    """Seeds torch's global generators from (seed, key, part) in the block, for the initial weights of one part.

    A part's initial weights do not depend on other parts: a network without some streams or stages starts with the same
    weights in the parts that it keeps. `key` is the stream's ("" for the fusion), `part` is for example "tap block1" or
    "head".

    >>> def draw(key):
    ...     with initializing(0, key, "head"):
    ...         return torch.rand(()).item()
    >>> draw("object") == draw("object"), draw("object") == draw("places")
    (True, False)
    """
    with _seeded(f"initial/{seed}/{key}/{part}", None):
        yield


def drawn_seed() -> int:
    """Draws a seed from torch's global generator, which `torch.manual_seed` sets."""
    with _ALONE:
        return int(torch.randint(2**62, ()))


@contextmanager
def _seeded(text: str, device: torch.device | None) -> Iterator[None]:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    # Faster than torch.random.fork_rng and torch.manual_seed, which visit all device types: 0.5 ms per step.
    generators = [torch.default_generator, *_of(device)]
    with _ALONE:
        states = [generator.get_state() for generator in generators]
        try:
            for generator in generators:
                generator.manual_seed(int.from_bytes(digest, "little") >> 1)
            yield
        finally:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)


def _of(device: torch.device | None) -> list[torch.Generator]:
    """The generator that modules on this device use, in addition to the CPU's."""
    if device is None or device.type == "cpu":
        return []
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return [torch.cuda.default_generators[index]]
    return [torch.mps._get_default_mps_generator()] if device.type == "mps" else []
