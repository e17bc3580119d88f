"""Random numbers of torch's own generators as a function of (seed, step) or of (seed, key, part)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, *, step: int, rank: int = 0, device: torch.device | None = None) -> Iterator[None]:
    """Seeds torch's generators from (seed, step, rank) inside; their states before are restored afterwards.

    A plugin's module draws from torch's global generators (`nn.Dropout` takes none of its own). Around the forward of
    a training step this makes what it draws independent of all that drew before: a recipe repeats, a resumed run
    draws what the uninterrupted one does. `device` is where the network runs: its generator is seeded too. `rank`
    keeps processes that hold different images from drawing the same mask.

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
    """Seeds torch's generators from (seed, key, part) inside, for the initial weights of one part of a network.

    What a part begins with depends on no other part: a network without some streams or stages begins with the same
    weights in what it keeps. `key` is the stream's ("" for the fusion), `part` for example "tap block1" or "head".

    >>> def draw(key):
    ...     with initializing(0, key, "head"):
    ...         return torch.rand(()).item()
    >>> draw("object") == draw("object"), draw("object") == draw("places")
    (True, False)
    """
    with _seeded(f"initial/{seed}/{key}/{part}", None):
        yield


def drawn_seed() -> int:
    """A seed from torch's own generator, for what is built without one: `torch.manual_seed` decides it."""
    return int(torch.randint(2**62, ()))


@contextmanager
def _seeded(text: str, device: torch.device | None) -> Iterator[None]:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    # Not torch.random.fork_rng and torch.manual_seed: they visit every kind of device, 0.5 ms a step.
    generators = [torch.default_generator, *_of(device)]
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
