"""The C library's memory: kept between steps, not handed back and asked for again."""

from __future__ import annotations

import ctypes
import os
import platform

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
"""glibc's malloc.h: M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX."""

CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Variables by which a user may have chosen himself."""


def keep_memory() -> bool:
    """Makes glibc keep what this process frees, for the rest of its life; whether it does.

    By default a block of more than 32 MB goes back to the system when it is freed, and the next one comes as fresh
    pages that the system fills with zeros: a third of a fine-tuning step of MobileNetV2 at batch 16, whose maps are
    that large, on two cores (benchmarks/README.md). The peak stays what it was; only what lies below it is kept.
    Other C libraries, and a process whose environment says how malloc shall be, are left alone; so is one with a limit
    of its address space (`ulimit -v`): kept memory has gaps, in which a large map finds no place.
    """
    if platform.libc_ver()[0] != "glibc" or any(os.environ.get(name) for name in CHOSEN) or _is_limited():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    wanted = ((MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, 64 * 2**20))
    return all(mallopt(name, value) == 1 for name, value in wanted)


def _is_limited() -> bool:
    import resource  # not on Windows, where there is no glibc either

    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
