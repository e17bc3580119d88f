"""Settings of the C library's allocator: freed memory is kept instead of returned to the system."""

from __future__ import annotations

import ctypes
import os
import platform

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
"""glibc's malloc.h: M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX."""

CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Environment variables with which a user may have configured the allocator."""


def keep_memory() -> bool:
    """Makes glibc keep the memory that this process frees, until it ends; returns whether it does.

    By default a freed block of more than 32 MB is returned to the system, and the next one consists of new pages that
    the system fills with zeros. This took a third of a fine-tuning step of MobileNetV2 at batch 16, whose maps are that
    large, on two cores (benchmarks/README.md). The peak memory does not change. Nothing is changed with other C
    libraries, if the environment configures malloc, or if the address space is limited (`ulimit -v`): kept memory is
    fragmented, and a large map may then not fit.
    """
    if platform.libc_ver()[0] != "glibc" or any(os.environ.get(name) for name in CHOSEN) or _is_limited():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    wanted = ((MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, 64 * 2**20))
    return all(mallopt(name, value) == 1 for name, value in wanted)


def _is_limited() -> bool:
    import resource  # not on Windows, which has no glibc either

    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
