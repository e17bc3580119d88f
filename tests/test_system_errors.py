"""What systems and allocators raise becomes one line; what may be a fault of the program stays as it is."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from multistream import system_errors
from multistream.errors import DataError, DiskFull, MemoryExhausted
from multistream.system_errors import known_error, memory_error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 4 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("could not create a primitive"),
        RuntimeError("could not create a primitive descriptor for a convolution forward propagation primitive"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("can't start new thread"),
        RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_memory_that_is_used_up_is_71(error: BaseException) -> None:
    found = known_error(error)
    assert isinstance(found, MemoryExhausted)
    assert found.exit_code == 71
    assert "\n" not in str(found)


def test_a_real_allocation_that_fails_is_71() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert memory_error(caught.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.ENOENT, errno.EIO])
def test_places_that_cannot_be_used_are_74(number: int, tmp_path: Path) -> None:
    found = known_error(OSError(number, os.strerror(number), str(tmp_path / "out")))
    assert isinstance(found, DiskFull)
    assert str(tmp_path / "out") in str(found)


def test_errors_of_ours_stay_and_faults_of_the_program_are_not_hidden() -> None:
    ours = DataError("a", "b.")
    assert known_error(ours) is ours
    for error in (RuntimeError("shape mismatch"), KeyError("x"), ValueError("y"), OSError("not a number")):
        assert known_error(error) is None
    missing = Path(system_errors.__file__).parent / "recipe" / "default.toml"
    assert known_error(FileNotFoundError(errno.ENOENT, "No such file", str(missing))) is None
