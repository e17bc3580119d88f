"""Training and extraction on several processes, with torch.distributed as torchrun starts it.

    torchrun --nproc-per-node 4 -m multistream train ...

Every process is a rank. Rank 0 writes the run; the others compute. Small values are exchanged by gloo on the CPU,
gradients by NCCL if the network is on a GPU.
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
"""A rank that does not respond for this long in a step is considered dead."""

WAITING: Final = timedelta(days=7)
"""The timeout while ranks wait for work that only rank 0 does."""

FAILED: Final = "multistream/failed"
"""Key in the ranks' common store for the rank that failed first; only that rank prints its error."""

LAUNCHERS: Final = {"OMPI_COMM_WORLD_SIZE": "mpirun", "PMI_SIZE": "mpiexec"}
"""Variables of launchers that do not pass the address of rank 0 to torch."""

SRUN: Final = "SLURM_STEP_NUM_TASKS"
"""The number of tasks that one srun has started; unlike SLURM_NTASKS, it is not set in batch scripts."""


@dataclass(frozen=True)
class Ranks:
    """This process's rank in its process group; a group of one by default."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Its number on this machine, which is also the number of its GPU."""
    local_size: int = 1
    """The number of ranks on this machine."""

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes and prints."""
        return self.rank == 0

    def workers(self, wanted: int) -> int:
        """Returns the number of decoding workers: `wanted`, or for -1 this process's share of the machine's cores."""
        return max(1, available_workers() // self.local_size) if wanted < 0 else wanted

    def portion(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns this rank's consecutive part of a batch; sizes differ by at most one.

        >>> [Ranks(rank, 2).portion(np.arange(5)).tolist() for rank in (0, 1)]
        [[0, 1, 2], [3, 4]]
        """
        return np.array_split(indices, self.size)[self.rank]

    def table(self, *values: float) -> NDArray[np.float64]:
        """Gathers these numbers from every rank, (ranks, numbers)."""
        own = torch.tensor(values, dtype=torch.float64)
        if self.size == 1:
            return own.numpy()[None]
        rows = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(rows, own)
        return torch.stack(rows).numpy()

    def sums(self, *values: float) -> list[float]:
        """Sums each of these numbers over the ranks."""
        total: list[float] = self.table(*values).sum(0).tolist()
        return total

    def gather(self, value: Any) -> list[Any]:
        """Gathers a JSON value from every rank, in the order of the ranks. JSON, because unpickling could run code."""
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
        """Returns rank 0's value (JSON)."""
        return self.gather(value if self.is_first else None)[0]

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replaces tensors on the CPU by their sums over the ranks."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def copy_from_first(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrites these tensors with rank 0's."""
        if self.size > 1:
            for _, tensor in sorted(tensors.items()):
                dist.broadcast(tensor, 0)

    def wait_for_first(self) -> None:
        """Waits until every rank has called this; rank 0 may take days."""
        if self.size > 1:
            dist.barrier(group=dist.new_group(backend="gloo", timeout=WAITING))  # type: ignore[arg-type]  # torch's union

    def parallel(self, module: nn.Module, device: torch.device) -> nn.Module:
        """Wraps the module so that each backward averages gradients over the ranks (DDP); unchanged with one rank."""
        if self.size == 1:
            return module
        # find_unused_parameters: a rank without an image uses no parameters. It also keeps the first step's buckets,
        # so that a resumed run sums in the same order.
        ids = [device] if device.type == "cuda" else None
        parallel = nn.parallel.DistributedDataParallel(module, device_ids=ids, find_unused_parameters=True)
        # `copy_from_first` at the end of an epoch is enough. Since torch 2.14 the argument of this name warns.
        parallel.broadcast_buffers = False
        return parallel


ALONE: Final = Ranks()


@contextmanager
def processes() -> Iterator[Ranks]:
    """Joins the process group that the environment describes, and leaves it at the end; yields ALONE for one process.

    An error on one rank ends all: the rank that failed first raises it, the others exit silently. Raises UsageError for
    an invalid environment, MemoryExhausted (exit 71) if another rank was killed.
    """
    ranks = ranks_of(os.environ)
    if ranks.size == 1 or dist.is_initialized():
        _warn_of_separate_tasks(os.environ)
        yield ranks
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if ranks.local_rank < torch.cuda.device_count():
        torch.cuda.set_device(ranks.local_rank)  # from now on "cuda" is this rank's own GPU
    with signals_end_the_process(ranks):
        dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield ranks
    except Exception as error:
        raise _reported_once(error, ranks) from error
    dist.destroy_process_group()


@contextmanager
def signals_end_the_process(ranks: Ranks) -> Iterator[None]:
    """Lets SIGTERM and SIGINT end one of many ranks immediately inside the context: there is no state to save yet.

    A handler that only records the signal would let the rank continue until it waits for the others, which may be dead:
    for minutes on a busy machine or with many photos. torchrun kills processes that have not ended after 30 s.
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
    """Reads torchrun's variables; a single rank if there are none."""
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
    """Warns if one srun started several separate tasks. This is not an error: each may train another seed."""
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
    """Returns the error if this rank failed first; else SystemExit with the exit code of the first failure."""
    lost = not isinstance(error, MultistreamError) and _is_lost_peer(error)
    code = getattr(error, "exit_code", None) or 128 + getattr(error, "signal", -127)
    own = f"{ranks.rank}:{MemoryExhausted.exit_code if lost else code}"
    store = dist.distributed_c10d._get_default_store()
    try:
        first = store.compare_set(FAILED, "", own).decode()
    except RuntimeError:  # without torchrun the store is on rank 0, which has ended
        first = own
    if first != own:
        return SystemExit(int(first.partition(":")[2]))
    if lost:
        what = (
            f"one of the {ranks.size} processes ended without a message: killed, out of memory, or its machine failed."
        )
        return MemoryExhausted(f"rank {ranks.rank}", what, do="Resume the run: multistream train --resume RUN.")
    return error


def _is_lost_peer(error: Exception) -> bool:
    """Returns whether a collective failed because a rank has ended: a class of NCCL, a message of gloo."""
    if isinstance(error, dist.DistError):
        return True
    words: Sequence[str] = ("gloo", "Connection closed by peer", "Connection reset", "Broken pipe", "Socket")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
