"""Converts errors of the operating system and of memory allocators to a MultistreamError: one line and an exit code."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Final

from multistream.errors import DiskFull, MemoryExhausted, MultistreamError

NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
REFUSED: Final = frozenset(
    {
        *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG),
        *(errno.ENOLCK, errno.ENOSYS, errno.ESTALE, errno.ELOOP, errno.ETXTBSY, errno.EBUSY, errno.ENODEV),
    }
)

NO_MEMORY: Final = (
    "DefaultCPUAllocator",
    "you tried to allocate",  # torch's allocator on the CPU
    "out of memory",  # CUDA, MPS and XPU
    "could not create a primitive",  # oneDNN has no separate error for memory
    "could not create a memory",
    "could not execute a primitive",
    "ALLOC_FAILED",  # cuBLAS, cuDNN
    "bad_alloc",
    "Cannot allocate memory",
    "cannot allocate memory",
    "failed to map segment",  # a library that is loaded later
    "can't start new thread",
    "unable to allocate shared memory",
    "unable to mmap",
)
"""Parts of messages of out-of-memory errors; torch raises a plain RuntimeError for most of them."""

KILLED_WORKER: Final = ("DataLoader worker (pid", "exited unexpectedly")
MORE_MEMORY: Final = "Use a smaller batch (--batch-size) or smaller images (--set data.image_size=128)."


def known_error(error: BaseException) -> MultistreamError | None:
    """The MultistreamError that reports this error, or None if it may be a fault of the program.

    Out of memory is exit 71; a disk that is full or read-only, or a file that is missing or not permitted, is exit 74.
    """
    if isinstance(error, MultistreamError):
        return error
    if found := memory_error(error):
        return found
    if isinstance(error, OSError) and error.errno in NO_SPACE | REFUSED | {errno.ENOENT}:
        return _file_error(error)
    return None


def memory_error(error: BaseException) -> MemoryExhausted | None:
    """MemoryExhausted if the error is an allocator's out-of-memory error; otherwise None."""
    text = str(error)
    if isinstance(error, RuntimeError) and any(part in text for part in KILLED_WORKER) and _is_of_torch(error):
        return MemoryExhausted(
            "memory", "a data loading process was killed.", do="Use fewer worker processes: --set runtime.workers=0."
        )
    of_system = isinstance(error, OSError) and error.errno == errno.ENOMEM
    says_so = isinstance(error, RuntimeError | OSError | ImportError | SystemError) and any(
        part in text for part in NO_MEMORY
    )
    if not (isinstance(error, MemoryError) or of_system or says_so or _is_device_memory(error)):
        return None
    detail = text.strip().partition("\n")[0].rstrip(".")[:160]
    return MemoryExhausted("memory", f"out of memory{f' ({detail})' if detail else ''}.", do=MORE_MEMORY)


def disk_error(error: OSError, folder: Path, *, needed: int = 0) -> DiskFull | None:
    """DiskFull, with the bytes needed and free, if the error came from writing into `folder`; otherwise None."""
    if error.errno in NO_SPACE:
        return _full(folder, needed, error)
    if not _concerns(error, folder):
        return None
    if error.errno in REFUSED:
        do = "Choose another folder, or change its permissions."
        return DiskFull(str(folder), f"it cannot be written: {reason(error)}.", do=do)
    if error.errno == errno.ENOENT and not folder.exists():
        return DiskFull(str(folder), "the folder no longer exists.", do="Do not remove it while it is in use.")
    return None


def reason(error: OSError) -> str:
    """The message of the system."""
    return error.strerror or type(error).__name__


def size_text(count: int) -> str:
    """A number of bytes in a readable unit, and exactly.

    >>> size_text(52_428_800)
    '52.4 MB (52,428,800 bytes)'
    """
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit} ({count:,} bytes)"
    return f"{count:,} bytes"


def _file_error(error: OSError) -> DiskFull | None:
    """DiskFull for an error outside a `writing` block; the only name of the file is the one in the error, if any."""
    if error.errno in NO_SPACE:
        return _full(Path(_named(error) or "."), 0, error)
    name = _named(error)
    if not name or Path(name).is_relative_to(Path(__file__).parent):
        return None  # a missing file of this package is a fault of the installation
    return DiskFull(name, f"it cannot be used: {reason(error)}.", do="Check that it exists, and its permissions.")


def _named(error: OSError) -> str:
    return os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""


def _full(folder: Path, needed: int, error: OSError) -> DiskFull:
    free = shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free
    needs = f"{size_text(needed)} needed, " if needed else ""
    what = f"the disk is full: {needs}{size_text(free)} free ({reason(error)})."
    return DiskFull(str(folder), what, right="Existing files are unchanged.", do="Free space and try again.")


def _concerns(error: OSError, folder: Path) -> bool:
    """Whether the error is about this folder, a parent or its content: code in the block may read other files."""
    if error.filename is None:
        return True  # a write: only errors of opening have a file name
    path = Path(_named(error))
    return path.is_relative_to(folder) or folder.is_relative_to(path)


def _is_device_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _is_of_torch(error: BaseException) -> bool:
    return "torch" in sys.modules and "pid" in str(error)
