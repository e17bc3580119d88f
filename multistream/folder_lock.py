"""Lock of a run folder: only one process may write to it at a time."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final

from multistream.errors import RunBusy
from multistream.files import make_folder, writing

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK: Final = ".lock"


class FolderLock:
    """An exclusive lock on a folder: for a second process or object, RunBusy (exit 73) names the holder.

    The system releases the lock when the process dies, even if a forked worker still runs (filelock 4.3). The file
    `.lock` stays: if it were removed, two processes could each lock a file of that name.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._lock: BaseFileLock | None = None

    def __enter__(self) -> FolderLock:
        from filelock import FileLock, Timeout  # takes 50 ms, and other commands do not need it

        path = self.folder.resolve() / LOCK
        if self._lock is not None:
            raise self._busy(f"process {os.getpid()}, this process,")
        make_folder(self.folder)
        lock = FileLock(path, preserve_lock_file=True, is_singleton=False)
        with writing(self.folder):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise self._busy(_holder(path)) from None
            path.write_text(_this_process(), encoding="utf-8")
        self._lock = lock
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lock is not None
        self._lock.release()
        self._lock = None

    def _busy(self, who: str) -> RunBusy:
        return RunBusy(str(self.folder), f"it is in use by {who}.", do="Wait until it ends, or stop it.")


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _holder(path: Path) -> str:
    """The holder named in the lock; on Windows a locked file cannot be read."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")[:300].strip()
    except OSError:
        text = ""
    return f"process {os.getpid()}, this process," if text == _this_process() else text or "another process"
