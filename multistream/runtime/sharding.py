"""Modules whose weights are divided among the ranks (FSDP2), and the whole tensors that files hold.

What torch has for this takes a second to import, so it is imported where something is divided.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from multistream.runtime.distributed import Ranks


def divide(module: nn.Module, parts: Iterable[nn.Module], *, device: torch.device, ranks: Ranks) -> None:
    """Divides the parameters of a module among the ranks, in place, and with them gradients and optimizer states.

    A part is gathered as a whole when it runs, and again in the backward pass; what no part holds, with the module.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if device.type == "cuda":
        torch.cuda.set_device(device)  # FSDP2 takes the current one
    mesh = init_device_mesh(device.type, (ranks.size,))
    module.to(memory_format=torch.contiguous_format)  # FSDP2 divides rows
    for part in parts:
        fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh, reshard_after_forward=True)  # a validation is followed by no backward


def is_divided(module: nn.Module) -> bool:
    """Whether some of a module's parameters are divided."""
    return any(hasattr(parameter, "full_tensor") for parameter in module.parameters())


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that is divided: all ranks call this at the same time."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def gathered(tensors: Mapping[str, Tensor], *, ranks: Ranks) -> dict[str, Tensor]:
    """The whole tensors on rank 0, those that were divided in main memory; nothing on the others. All ranks call it."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():  # one at a time: together they may not fit
        full = whole(tensor)
        if ranks.is_first:
            found[name] = tensor if full is tensor else full.cpu()
    return found


def divided_like(value: Tensor, other: Tensor) -> Tensor:
    """This rank's part of a whole tensor, if `other` is divided; the tensor itself otherwise."""
    if not hasattr(other, "full_tensor") or hasattr(value, "full_tensor") or value.shape != other.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(other, DTensor)
    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def load_whole(module: nn.Module, tensors: Mapping[str, Tensor], *, strict: bool = True) -> None:
    """`load_state_dict` of whole tensors, or of those that are divided as the module's are."""
    own = module.state_dict()
    module.load_state_dict({n: divided_like(t, own.get(n, t)) for n, t in tensors.items()}, strict=strict)
