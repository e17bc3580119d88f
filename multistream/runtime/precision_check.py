"""Checks on the network itself that a faster number format agrees with float32, before `auto` selects it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from multistream.console import Say
from multistream.inputs import Vector
from multistream.network.network import MultiStream
from multistream.nn.modules import evaluating
from multistream.recipe import RuntimeSettings
from multistream.runtime.device import Runtime, resolve

TOLERANCE = 0.05
"""The relative difference of a tap's pooled features above which `auto` uses float32.

bf16 has 8 significant bits: each rounding has an error of up to 0.4 %, and fifty layers add up to 1 or 2 %.
"""

PICTURES = 4


@dataclass(frozen=True)
class Parity:
    """The largest relative difference of pooled features from float32, and its place: `key/stage`."""

    difference: float
    where: str

    @property
    def holds(self) -> bool:
        """Whether the difference is within the tolerance; False for NaN."""
        return self.difference <= TOLERANCE


def settle(settings: RuntimeSettings, network: MultiStream, *, say: Say) -> Runtime:
    """Resolves the settings and places the network; a faster format chosen by `auto` is checked and the result printed.

    The test pictures are generated and always the same, so that the result for a network is reproducible on a machine.
    """
    runtime = resolve(settings)
    runtime.place(network)
    if settings.precision != "auto" or runtime.precision == "fp32" or not _pictures(network):
        return runtime
    found = compare(network, runtime)
    difference = f"pooled features differ from fp32 by at most {100 * found.difference:.2f} % ({found.where})"
    message = f"precision: {runtime.precision}; {difference}"
    if found.holds:
        say(message)
        return runtime
    say(f"{message}, more than the limit of {100 * TOLERANCE:.0f} %; using fp32")
    return replace(runtime, precision="fp32")


def compare(network: MultiStream, runtime: Runtime) -> Parity:
    """Pools generated pictures in float32 and in the runtime's precision: |difference| / |float32| for each tap."""
    batch = runtime.send(_pictures(network))
    differences: dict[str, float] = {}
    with evaluating(network), torch.no_grad():
        for key, x in batch.items():
            exact = network.branches[key].pool(x)
            with runtime.autocast:
                fast = network.branches[key].pool(x)
            for stage, pooled_BP in exact.items():
                size = pooled_BP.norm().clamp_min(torch.finfo(torch.float32).tiny)
                differences[f"{key}/{stage}"] = float((fast[stage] - pooled_BP).norm() / size)
    where = max(differences, key=lambda place: (differences[place] != differences[place], differences[place]))
    return Parity(differences[where], where)


def _pictures(network: MultiStream) -> dict[str, Tensor]:
    """Returns pictures for every stream that reads pictures, by key. Vectors are always computed in float32."""
    inputs = {key: branch.stream.example_input(batch=PICTURES) for key, branch in network.branches.items()}
    return {key: _cloudy(x) for key, x in inputs.items() if not isinstance(network.inputs[key], Vector)}


def _cloudy(like: Tensor) -> Tensor:
    """Generates noise with equal amplitude at every scale, like photos: 0-255 for an Image, of order 1 for a Map."""
    generator = torch.Generator().manual_seed(0)
    side, picture = 1, torch.zeros(like.shape)
    while side <= like.shape[-1]:
        octave = torch.randn(*like.shape[:2], side, side, generator=generator)
        picture += functional.interpolate(octave, size=like.shape[2:], mode="bilinear")
        side *= 2
    if like.dtype != torch.uint8:
        return picture
    return (picture * 25 + 128).clamp(0, 255).to(torch.uint8)
