"""Files that are either whole or not there: atomic writing, checksums, the lock of a folder."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Final

from multistream.errors import DiskFull, RunBusy, UsageError

NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
REFUSED: Final = frozenset(
    {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}
)
LOCK: Final = ".lock"

_STALE = re.compile(r"\.tmp-(?:[a-z]+-\d+-)?(\d+)-[0-9a-f]{8}")
_in_flight: set[Path] = set()  # what this process writes right now: pids come again, so ours alone says nothing
_held: dict[Path, FolderLock] = {}  # POSIX locks do not keep a process from itself


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Writes a whole file, text as UTF-8. After a crash or DiskFull (exit 74) the old file is there, untouched."""
    content = data.encode() if isinstance(data, str) else data
    with replacing(path, needed=len(content)) as file:
        file.write(content)


@contextmanager
def replacing(path: str | Path, *, needed: int = 0) -> Iterator[IO[bytes]]:
    """A new file that takes the place of `path` when the block ends well; else the old one stays.

    It lies beside `path`, for a rename cannot leave a file system, and is on the disk before it is renamed.
    `needed`, in bytes, goes into the message of DiskFull.
    """
    target = Path(os.path.realpath(path))  # a link goes on to point where it did
    if os.path.exists(target) and not target.is_file():  # Path.exists raises for a name that is too long
        raise UsageError(str(path), "it is no regular file.", right="A file that may be written anew.")
    with temporary(target.parent, needed=needed) as name:
        with name.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        name.replace(target)
        sync_folder(target.parent)


@contextmanager
def temporary(folder: Path, *, noun: str = "", needed: int = 0) -> Iterator[Path]:
    """The free name `.tmp-[NOUN-]PID-RANDOM` in `folder`, made if missing; what still lies there at the end goes.

    A disk that is full or cannot be written becomes DiskFull.
    """
    name = folder / "-".join(part for part in (".tmp", noun, str(os.getpid()), secrets.token_hex(4)) if part)
    with writing(folder, needed=needed):
        folder.mkdir(parents=True, exist_ok=True)
        _in_flight.add(name)
        try:
            yield name
        finally:
            _in_flight.discard(name)
            remove(name)


@contextmanager
def writing(folder: Path, *, needed: int = 0) -> Iterator[None]:
    """Turns what a disk refuses inside the block into DiskFull, with the bytes needed and free."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise _full(folder, needed, error) from error
        if error.errno in REFUSED and _concerns(error, folder):
            what = f"it cannot be written: {_reason(error)}."
            raise DiskFull(str(folder), what, do="Choose another place, or change its permissions.") from error
        raise


def sync_folder(folder: Path) -> None:
    """Brings a folder's names, renames above all, to the disk."""
    if sys.platform == "win32":
        return  # Windows opens no folders; its renames are journalled
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot sync folders
            raise
    finally:
        os.close(handle)


def cache_root() -> Path:
    """The folder of all that can be made again: MULTISTREAM_CACHE, else `multistream` in the user's cache."""
    if given := os.environ.get("MULTISTREAM_CACHE"):
        return Path(given).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", str(Path.home() / "AppData/Local"))) / "multistream"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/multistream"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "multistream"


def sha256_file(path: str | Path) -> str:
    """The sha256 of a file's bytes, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove(path: Path) -> None:
    """Removes a file, or a folder with all in it; a link itself, not what it points to. Nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def clean(folder: Path) -> tuple[Path, ...]:
    """Removes what processes that are dead left half-written in `folder`; returns what it removed."""
    found = [(path, _STALE.fullmatch(path.name)) for path in folder.glob(".tmp-*")]
    stale = [path for path, match in found if match and _is_stale(path, pid=int(match[1]))]
    with writing(folder):
        for path in stale:
            remove(path)
    return tuple(stale)


class FolderLock:
    """Keeps a second process, or a second lock in this one, out of a folder: RunBusy (exit 73) names who holds it.

    The system gives the lock back when the process dies, however it dies. The file `.lock` stays: were it removed, two
    processes could each lock a file of that name.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._path = self.folder.resolve() / LOCK
        self._file: IO[bytes] | None = None

    def __enter__(self) -> FolderLock:
        if _held.setdefault(self._path, self) is not self or self._file:
            raise self._busy(f"process {os.getpid()}, this one,")
        try:
            self._file = self._locked()
        except BaseException:
            del _held[self._path]
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        self._file.close()  # gives the lock back
        self._file = None
        del _held[self._path]

    def _locked(self) -> IO[bytes]:
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            file = self._path.open("a+b", buffering=0)
            try:
                if not _try_lock(file):
                    raise self._busy(_holder(file))
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
            except BaseException:
                file.close()
                raise
        return file

    def _busy(self, who: str) -> RunBusy:
        return RunBusy(str(self.folder), f"{who} is at work in it.", do="Wait for it to end, or stop it.")


if sys.platform == "win32":
    import ctypes
    import msvcrt

    def _try_lock(file: IO[bytes]) -> bool:
        """Locks one byte far behind the text: Windows lets nobody read what is locked."""
        file.seek(1 << 30)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EDEADLK):
                return False
            raise
        return True

    def is_alive(pid: int) -> bool:
        """Whether a process of this number runs; os.kill would end it here."""
        handle = ctypes.windll.kernel32.OpenProcess(0x0010_0000, False, pid)  # SYNCHRONIZE
        state = ctypes.windll.kernel32.WaitForSingleObject(handle, 0) if handle else 0
        ctypes.windll.kernel32.CloseHandle(handle)
        return bool(state == 0x102)  # WAIT_TIMEOUT: it has not ended

else:
    import fcntl

    def _try_lock(file: IO[bytes]) -> bool:
        """A POSIX lock: unlike flock's it is not handed on to forked workers, which outlive a killed parent."""
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        return True

    def is_alive(pid: int) -> bool:
        """Whether a process of this number runs, whoever owns it."""
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            return True
        return True


def _is_stale(path: Path, *, pid: int) -> bool:
    return path not in _in_flight if pid == os.getpid() else not is_alive(pid)


def _holder(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(300).decode(errors="replace").strip() or "another process"


def _concerns(error: OSError, folder: Path) -> bool:
    """Whether the refusal is about this folder, one above or what lies in it: code in the block may read elsewhere."""
    if error.filename is None:
        return True  # a write: only opening knows a name
    path = Path(os.fsdecode(error.filename))
    return path.is_relative_to(folder) or folder.is_relative_to(path)


def _full(folder: Path, needed: int, error: OSError) -> DiskFull:
    free = shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free
    needs = f"{_size(needed)} needed, " if needed else ""
    what = f"no room is left: {needs}{_size(free)} free ({_reason(error)})."
    return DiskFull(str(folder), what, right="What was there before is untouched.", do="Free space, then resume.")


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _size(count: int) -> str:
    """A number of bytes, to read and to the byte.

    >>> _size(52_428_800)
    '52.4 MB (52,428,800 bytes)'
    """
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit} ({count:,} bytes)"
    return f"{count:,} bytes"
