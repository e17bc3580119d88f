"""Many processes that train or extract together: torch.distributed, as torchrun starts it.

    torchrun --nproc-per-node 4 -m multistream train ...

Every process is a rank. Rank 0 writes the run; the others compute. Small numbers travel over gloo on the CPU,
gradients over NCCL where the network is on a GPU.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from multistream.errors import MemoryExhausted, MultistreamError, MultistreamWarning, UsageError
from multistream.runtime.device import available_workers

PATIENCE: Final = timedelta(minutes=30)
"""A rank that is silent for so long in a step is taken for dead."""

WAITING: Final = timedelta(days=7)
"""How long ranks wait for work that rank 0 does alone."""

FAILED: Final = "multistream/failed"
"""Where the ranks' common store keeps who failed first: that rank alone prints its error."""

LAUNCHERS: Final = {"OMPI_COMM_WORLD_SIZE": "mpirun", "PMI_SIZE": "mpiexec"}
"""Variables of launchers that do not tell torch the address of rank 0."""

SRUN: Final = "SLURM_STEP_NUM_TASKS"
"""Slurm's number of tasks that one srun has started; not set in batch scripts, unlike SLURM_NTASKS."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that work together; alone by default."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Its number on this machine, which is also its GPU's."""
    local_size: int = 1
    """How many of them run on this machine."""

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes and prints."""
        return self.rank == 0

    def workers(self, wanted: int) -> int:
        """Decoding workers of this process: as many as are wanted, or for -1 its share of the machine's cores."""
        return max(1, available_workers() // self.local_size) if wanted < 0 else wanted

    def portion(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """This rank's consecutive part of a batch; the parts differ by one entry at most.

        >>> [Ranks(rank, 2).portion(np.arange(5)).tolist() for rank in (0, 1)]
        [[0, 1, 2], [3, 4]]
        """
        return np.array_split(indices, self.size)[self.rank]

    def table(self, *values: float) -> NDArray[np.float64]:
        """These numbers of every rank, (ranks, numbers)."""
        own = torch.tensor(values, dtype=torch.float64)
        if self.size == 1:
            return own.numpy()[None]
        rows = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(rows, own)
        return torch.stack(rows).numpy()

    def sums(self, *values: float) -> list[float]:
        """Each of these numbers, summed over the ranks."""
        total: list[float] = self.table(*values).sum(0).tolist()
        return total

    def gather(self, value: Any) -> list[Any]:
        """What every rank gave, in the order of the ranks; JSON, not pickle."""
        if self.size == 1:
            return [value]
        own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = self.table(len(own))[:, 0].astype(int).tolist()
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        padded[: len(own)] = own
        rows = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(rows, padded)
        return [json.loads(bytes(row[:length].numpy())) for row, length in zip(rows, lengths, strict=True)]

    def from_first(self, value: Any) -> Any:
        """What rank 0 gave; JSON."""
        return self.gather(value if self.is_first else None)[0]

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replaces tensors on the CPU by their sums over the ranks."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def copy_from_first(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrites these tensors by rank 0's."""
        if self.size > 1:
            for _, tensor in sorted(tensors.items()):
                dist.broadcast(tensor, 0)

    def wait_for_first(self) -> None:
        """Returns when every rank has come here; rank 0 may take days."""
        if self.size > 1:
            dist.barrier(group=dist.new_group(backend="gloo", timeout=WAITING))  # type: ignore[arg-type]  # torch's union

    def parallel(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module with its gradients averaged over the ranks in each backward (DDP); itself where there is one."""
        if self.size == 1:
            return module
        # find_unused_parameters: a rank without an image uses none, and the buckets of the first step stay, so that
        # a resumed run sums in the same order.
        ids = [device] if device.type == "cuda" else None
        parallel = nn.parallel.DistributedDataParallel(module, device_ids=ids, find_unused_parameters=True)
        # `copy_from_first` at the end of an epoch is enough. Since torch 2.14 the argument of this name warns.
        parallel.broadcast_buffers = False
        return parallel


ALONE: Final = Ranks()


@contextmanager
def processes() -> Iterator[Ranks]:
    """Joins the process group described by the environment, and leaves it at the end; yields ALONE where there is one.

    An error on one rank ends all: the rank where it happened raises it, the others leave without a word. Raises
    UsageError for an invalid environment, MemoryExhausted (exit 71) where another rank was killed.
    """
    ranks = ranks_of(os.environ)
    if ranks.size == 1 or dist.is_initialized():
        _warn_of_separate_tasks(os.environ)
        yield ranks
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if ranks.local_rank < torch.cuda.device_count():
        torch.cuda.set_device(ranks.local_rank)  # "cuda" means this rank's own GPU from here on
    with signals_end_the_process(ranks):
        dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield ranks
    except Exception as error:
        raise _reported_once(error, ranks) from error
    dist.destroy_process_group()


@contextmanager
def signals_end_the_process(ranks: Ranks) -> Iterator[None]:
    """SIGTERM and SIGINT end one of many ranks at once inside: there is nothing to save yet.

    A handler that only notes them would let it go on until it meets the other ranks, which may be dead: minutes, on a
    busy machine or many photos. torchrun kills what has not left after 30 s.
    """
    if ranks.size == 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ranks_of(environment: Mapping[str, str]) -> Ranks:
    """The ranks that torchrun's variables describe; one of its own where there are none."""
    if "WORLD_SIZE" not in environment:
        for name, launcher in LAUNCHERS.items():
            if environment.get(name, "1") != "1":
                raise UsageError(
                    launcher,
                    f"{name} is {environment[name]}, and torch.distributed's variables are missing.",
                    right="torchrun sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.",
                    do="Start it with torchrun --nproc-per-node N -m multistream train ...",
                )
        return ALONE
    size = _number(environment, "WORLD_SIZE", "1", least=1)
    if size == 1:
        return ALONE
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if name not in environment:
            do = "Start it with torchrun, or unset WORLD_SIZE."
            raise UsageError("WORLD_SIZE", f"it is {size}, and {name} is not set.", right="torchrun sets both.", do=do)
    rank = _number(environment, "RANK", "0")
    if rank >= size:
        raise UsageError("RANK", f"{rank} is out of range.", right=f"WORLD_SIZE is {size}: 0 to {size - 1}.")
    local = _number(environment, "LOCAL_RANK", str(rank))
    return Ranks(rank, size, local, _number(environment, "LOCAL_WORLD_SIZE", str(size), least=1))


def _warn_of_separate_tasks(environment: Mapping[str, str]) -> None:
    """Tasks of one srun may well do separate work (a seed each), so they are not refused."""
    count = environment.get(SRUN, "1")
    if count != "1" and "WORLD_SIZE" not in environment and environment.get("SLURM_PROCID") == "0":
        what = f"srun started {count} tasks, and each works alone. To share one training or extraction among them: "
        message = f"{what}srun --ntasks-per-node 1 torchrun --nproc-per-node N -m multistream ..."
        warnings.warn(message, MultistreamWarning, stacklevel=2)


def _number(environment: Mapping[str, str], name: str, default: str, *, least: int = 0) -> int:
    text = environment.get(name, default)
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= least):
        do = "Start it with torchrun, or unset the variable."
        raise UsageError(name, f"{text!r} in the environment is not a number.", right=f"At least {least}.", do=do)
    return int(text)


def _reported_once(error: Exception, ranks: Ranks) -> BaseException:
    """The error where this rank was the first that failed; else SystemExit with the first one's exit code."""
    lost = not isinstance(error, MultistreamError) and _is_lost_peer(error)
    code = getattr(error, "exit_code", None) or 128 + getattr(error, "signal", -127)
    own = f"{ranks.rank}:{MemoryExhausted.exit_code if lost else code}"
    store = dist.distributed_c10d._get_default_store()
    try:
        first = store.compare_set(FAILED, "", own).decode()
    except RuntimeError:  # without torchrun the store is rank 0's, and rank 0 is gone
        first = own
    if first != own:
        return SystemExit(int(first.partition(":")[2]))
    if lost:
        what = f"one of the {ranks.size} processes ended without a message: killed, or out of memory."
        return MemoryExhausted(f"rank {ranks.rank}", what, do="Resume the run: multistream train --resume RUN.")
    return error


def _is_lost_peer(error: Exception) -> bool:
    """Whether a collective failed because a rank is gone: NCCL has a class for it, gloo says so in words."""
    if isinstance(error, dist.DistError):
        return True
    words: Sequence[str] = ("gloo", "Connection closed by peer", "Connection reset", "Broken pipe", "Socket")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
