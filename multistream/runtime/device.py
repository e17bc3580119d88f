"""The device, number format and memory layout in which a network runs."""

from __future__ import annotations

import os
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from multistream.errors import UsageError
from multistream.network.network import MultiStream
from multistream.recipe import Recipe, RuntimeSettings

Precision = Literal["fp32", "bf16", "fp16"]

COMPILED_STEPS = 5_000
"""Steps from which `compile = auto` compiles on a GPU: it takes 15 to 50 s and saves 2 to 9 ms a step (H200)."""

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """A device, the precision of the streams, and whether convolutions use the channels-last layout.

    Taps, heads and fusions always compute in float32: they cost little, and the prediction depends on them.
    """

    device: torch.device
    precision: Precision = "fp32"
    channels_last: bool = False
    compile: bool = False
    cuda_graphs: bool = False

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """The number format of autocast; None for float32."""
        return AUTOCAST.get(self.precision)

    @property
    def autocast(self) -> AbstractContextManager[object]:
        """The autocast context for streams."""
        kind = self.autocast_dtype
        return torch.autocast(
            self.device.type, dtype=kind, enabled=kind is not None, cache_enabled=torch.is_grad_enabled()
        )

    def place(self, network: MultiStream) -> MultiStream:
        """Moves the network to the device, and its convolutions to the memory layout."""
        network.to(self.device)
        if self.channels_last:
            for branch in network.branches.values():
                branch.stream.to(memory_format=torch.channels_last)
        return network

    def send(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Moves a batch to the device; uint8 images are not converted."""
        moved = {name: t.to(self.device, non_blocking=True) for name, t in batch.items()}
        if self.channels_last:
            layout = torch.channels_last
            moved = {name: t.contiguous(memory_format=layout) if t.ndim == 4 else t for name, t in moved.items()}
        return moved

    def __str__(self) -> str:
        extras = [
            name
            for name, on in (
                ("channels_last", self.channels_last),
                ("compiled", self.compile),
                ("CUDA graphs", self.cuda_graphs),
            )
            if on
        ]
        return ", ".join([str(self.device), self.precision, *extras])


def resolve(settings: RuntimeSettings) -> Runtime:
    """Converts the recipe's `[runtime]` to a Runtime; `auto` selects the fastest format with native support."""
    device = _device(settings.device)
    precision: Precision = (
        ("bf16" if has_bf16(device) else "fp32") if settings.precision == "auto" else settings.precision
    )
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("runtime.precision", "fp16 does not run on a CPU.", right="Use bf16 or fp32.")
    return Runtime(
        device=device,
        precision=precision,
        channels_last=settings.channels_last != "off" and device.type in ("cpu", "cuda"),
        compile=settings.compile == "on",
        cuda_graphs=settings.cuda_graphs != "off" and device.type == "cuda",
    )


def resolve_again(recipe: Recipe, *, device: str, precision: str) -> Runtime:
    """Returns the Runtime of a trained network; precision `auto` is that of its training if this device supports it."""
    settings = RuntimeSettings(device=device, precision=precision)  # type: ignore[arg-type]  # checked inside
    own = recipe.runtime.precision
    target = _device(device)
    computes = {"fp32": True, "bf16": has_bf16(target), "fp16": target.type != "cpu"}
    if precision == "auto" and computes.get(own, False):
        settings = replace(settings, precision=own)
    runtime = resolve(settings)
    if precision == "auto" and own in computes and runtime.precision != own:
        warnings.warn(
            f"precision: it was trained in {own}, which {target} does not support; {runtime.precision} is used, "
            "and some predictions may differ",
            stacklevel=2,
        )
    return runtime


def compiling_pays(runtime: Runtime, *, steps: int) -> bool:
    """Returns whether `runtime.compile = "auto"` compiles the streams: on a GPU, if the training is long.

    >>> compiling_pays(Runtime(torch.device("cpu")), steps=100_000)
    False
    """
    return runtime.device.type == "cuda" and steps >= COMPILED_STEPS


def has_bf16(device: torch.device) -> bool:
    """Returns whether the device multiplies bfloat16 natively (AVX512-BF16 or AMX; CUDA from compute capability 8)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(check and check())


def available_workers() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parameter_count(network: nn.Module) -> dict[str, int]:
    """Counts `{"total", "trainable"}` parameters; a shared parameter counts once."""
    parameters = list(network.parameters())
    return {
        "total": sum(p.numel() for p in parameters),
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
    }


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError("device", f"{name!r} is unknown.", right="auto, cpu, cuda, cuda:1 or mps.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            "device", f"{name} does not exist: there are {torch.cuda.device_count()} CUDA devices.", do="Try auto."
        )
    return device
