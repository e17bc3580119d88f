"""`runtime.shard`: divides weights, gradients and optimizer states among the ranks during training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import nn

from multistream.errors import UsageError
from multistream.interfaces import Stream
from multistream.network.network import MultiStream
from multistream.recipe import Recipe
from multistream.runtime.device import Runtime
from multistream.runtime.distributed import Ranks
from multistream.runtime.sharding import divide, whole
from multistream.training.step import Objective


def check_sharding(recipe: Recipe, network: MultiStream, ranks: Ranks) -> None:
    """Raises UsageError if `runtime.shard` has nothing to divide, or does not work with other settings."""
    settings = recipe.runtime
    if not settings.shard:
        return
    where, do = "runtime.shard", "Pass --set runtime.shard=false."
    if ranks.size == 1:
        start = "Start several: torchrun --nproc-per-node N -m multistream train ...; or give"
        raise UsageError(where, "one process cannot divide weights.", do=f"{start} --set runtime.shard=false.")
    if network.is_cacheable:
        raise UsageError(where, "all streams are frozen, so rank 0 trains the heads alone.", do=do)
    others = {
        "runtime.precision = fp16": settings.precision == "fp16",
        "runtime.compile = on": settings.compile == "on",
        "--batch-size auto": settings.fit_batch,
        f"training.optimizer = {recipe.training.optimizer}": recipe.training.optimizer.startswith("timm:"),
    }
    for name, is_set in others.items():
        if is_set:
            raise UsageError(where, f"it does not work with {name}.", do=f"Change that, or: {do}")


@contextmanager
def sharded(objective: Objective, *, runtime: Runtime, ranks: Ranks) -> Iterator[Objective]:
    """Yields a copy of the objective, divided among the ranks; at the end copies its weights to the network.

    The network itself is in main memory meanwhile.
    """
    network = objective.network.cpu()
    # As DDP does, because a plugin's initialisation may differ between ranks.
    ranks.copy_from_first(network.state_dict())
    copy = deepcopy(objective)
    streams = [branch.stream for branch in copy.network.branches.values()]
    parts = dict.fromkeys(part for stream in streams for part in _parts(stream))
    divide(copy, parts, device=runtime.device, ranks=ranks)
    yield copy
    own = network.state_dict()
    with torch.no_grad():
        for name, tensor in copy.network.state_dict().items():
            own[name].copy_(whole(tensor))
    runtime.place(network)


def _parts(stream: Stream) -> list[nn.Module]:
    """Lists the modules that are gathered as a unit: each stage, or the whole stream if it overrides `forward`."""
    parts = list(stream.stages.values()) if type(stream).forward is Stream.forward else [stream]
    return [part for part in parts if any(True for _ in part.parameters())]
