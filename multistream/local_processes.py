"""Processes of this machine: whether one is alive, and an identifier of the PID space."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import sys
from pathlib import Path

if sys.platform == "win32":
    import ctypes

    def is_alive(pid: int) -> bool:
        """Whether a process with this pid runs; os.kill would end it on Windows."""
        handle = ctypes.windll.kernel32.OpenProcess(0x0010_0000, False, pid)  # SYNCHRONIZE
        state = ctypes.windll.kernel32.WaitForSingleObject(handle, 0) if handle else 0
        ctypes.windll.kernel32.CloseHandle(handle)
        return bool(state == 0x102)  # WAIT_TIMEOUT: it has not ended

else:

    def is_alive(pid: int) -> bool:
        """Whether a process with this pid runs, of any user."""
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            return True
        return True


@functools.cache
def process_space() -> str:
    """Eight hexadecimal digits that identify the space of this process's pid: a machine, or a container on it.

    A pid of another space is meaningless here. On Linux the space is identified by the kernel's boot id and the PID
    namespace (containers of one machine may share a host name), on other systems by the host name.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        identity = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        identity = platform.node()
    return hashlib.sha256(identity.encode()).hexdigest()[:8]
