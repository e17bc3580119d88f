"""Modules whose weights are divided among the ranks (FSDP2), and the whole tensors for files.

torch's modules for this take a second to import, so they are imported only if something is divided.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from multistream.runtime.distributed import Ranks


def divide(module: nn.Module, parts: Iterable[nn.Module], *, device: torch.device, ranks: Ranks) -> None:
    """Divides a module's parameters among the ranks, in place, and thereby its gradients and optimizer states.

    Each part is gathered as a whole for its forward and again for its backward pass; all other parameters are gathered
    with the module.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if device.type == "cuda":
        torch.cuda.set_device(device)  # FSDP2 uses the current device
    mesh = init_device_mesh(device.type, (ranks.size,))
    module.to(memory_format=torch.contiguous_format)  # FSDP2 divides rows
    for part in parts:
        fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh, reshard_after_forward=True)  # a validation has no backward pass


def is_divided(module: nn.Module) -> bool:
    """Returns whether any of a module's parameters is divided."""
    return any(hasattr(parameter, "full_tensor") for parameter in module.parameters())


def whole(tensor: Tensor) -> Tensor:
    """Returns the whole of a divided tensor. All ranks must call this at the same time."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def gathered(tensors: Mapping[str, Tensor], *, ranks: Ranks) -> dict[str, Tensor]:
    """Returns the whole tensors on rank 0, divided ones in main memory; empty on other ranks. All ranks call it."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():  # one at a time, because together they may not fit
        full = whole(tensor)
        if ranks.is_first:
            found[name] = tensor if full is tensor else full.cpu()
    return found


def divided_like(value: Tensor, other: Tensor) -> Tensor:
    """Returns this rank's part of a whole tensor if `other` is divided, else the tensor itself."""
    if not hasattr(other, "full_tensor") or hasattr(value, "full_tensor") or value.shape != other.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(other, DTensor)
    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def load_whole(module: nn.Module, tensors: Mapping[str, Tensor], *, strict: bool = True) -> None:
    """Loads a state dict of whole tensors, or of tensors that are divided like the module's."""
    own = module.state_dict()
    module.load_state_dict({n: divided_like(t, own.get(n, t)) for n, t in tensors.items()}, strict=strict)
