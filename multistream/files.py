"""Atomic file writing; a disk error becomes one line with exit code 74."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from multistream.errors import DataError, MultistreamError, UsageError
from multistream.local_processes import is_alive, process_space
from multistream.system_errors import disk_error

_TEMPORARY = re.compile(r"\.tmp-(?:[a-z]+-)?(?:\d+-)?(\d+)-([0-9a-f]{8})-[0-9a-f]{8}")
_in_flight: set[str] = set()  # temporary files of this process: pids are reused, so the pid alone does not identify it

ABANDONED: Final = 24 * 3600
"""Seconds without a change after which a temporary file of another machine counts as left behind by a dead process."""


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Writes a whole file, text as UTF-8. After a crash or DiskFull (exit 74) the old file is unchanged."""
    content = data.encode() if isinstance(data, str) else data
    with replacing(path, needed=len(content)) as file:
        file.write(content)


@contextmanager
def replacing(path: str | Path, *, needed: int = 0) -> Iterator[IO[bytes]]:
    """A new file that replaces `path` when the block ends without an exception; otherwise the old file stays.

    It is in the folder of `path`, because a rename cannot cross file systems, and is flushed before the rename.
    `needed`, in bytes, is for the message of DiskFull.
    """
    target = Path(os.path.realpath(path))  # replaces the target of a link, not the link
    if os.path.exists(target) and not target.is_file():  # Path.exists raises for a name that is too long
        raise UsageError(path, "it is not a regular file.", right="Pass a regular file, or a new path.")
    with temporary(target.parent, needed=needed) as name:
        with name.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        name.replace(target)
        sync_folder(target.parent)


@contextmanager
def replacing_text(path: str | Path) -> Iterator[IO[str]]:
    r"""As `replacing`, for text that is written piece by piece, as UTF-8 with the line ends \n that are given."""
    with replacing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        yield text
        text.detach()  # flushes, and leaves the file open


@contextmanager
def temporary(folder: Path, *, noun: str = "", needed: int = 0) -> Iterator[Path]:
    """An unused path `.tmp-[NOUN-]PID-SPACE-RANDOM` in `folder`, which is made if missing.

    SPACE identifies the machine or container of the PID (`process_space`). A file or folder of that name is removed at
    the end. Raises DiskFull if the disk is full or cannot be written.
    """
    parts = (".tmp", noun, str(os.getpid()), process_space(), secrets.token_hex(4))
    name = folder / "-".join(part for part in parts if part)
    with writing(folder, needed=needed):
        folder.mkdir(parents=True, exist_ok=True)
        _in_flight.add(name.name)
        try:
            yield name
        finally:
            _in_flight.discard(name.name)
            remove(name)


@contextmanager
def writing(folder: Path, *, needed: int = 0) -> Iterator[None]:
    """Turns disk errors inside the block into DiskFull, with the bytes needed and free.

    All code that writes into a folder runs in such a block, directly or through the functions of this module.
    """
    try:
        yield
    except OSError as error:
        if found := disk_error(error, folder, needed=needed):
            raise found from error
        raise


def write_folder(folder: Path, texts: Mapping[str, str]) -> None:
    """Writes text files, by relative path, into a new or empty folder: all of them, or none and DiskFull."""
    with temporary(folder.absolute().parent) as made:
        for path, text in texts.items():
            (made / path).parent.mkdir(parents=True, exist_ok=True)
            (made / path).write_text(text, encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        made.rename(folder)


def make_folder(folder: str | Path) -> Path:
    """Makes a folder and its parents if they do not exist; raises DiskFull (exit 74) if that is not permitted."""
    path = Path(folder)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def reserve(path: Path, *, size: int) -> None:
    """Allocates a file's blocks on the disk, up to `size` bytes of zeros; raises DiskFull if there is no space.

    A file that is mapped into memory needs this: writing into a hole of it kills the process if the disk is full.
    """
    with writing(path.parent, needed=size), path.open("r+b" if path.exists() else "xb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, max(size, 1))
            return
        start = file.seek(0, os.SEEK_END)
        for position in range(start, size, 2**20):
            file.write(bytes(min(2**20, size - position)))


def sync_folder(folder: Path) -> None:
    """Flushes a folder's entries (renames) to the disk."""
    if sys.platform == "win32":
        return  # Windows cannot open folders; its renames are journalled
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot sync folders
            raise
    finally:
        os.close(handle)


def sync_all() -> None:
    """Brings all that was written to the disk: many files at once, where a flush of each would take hours."""
    if sys.platform != "win32":  # Windows has no such call
        os.sync()


def cache_root() -> Path:
    """The folder for files that can be recomputed: MULTISTREAM_CACHE, or `multistream` in the user's cache folder."""
    if chosen := os.environ.get("MULTISTREAM_CACHE"):
        return Path(chosen).expanduser().absolute()
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(xdg):  # relative paths must be ignored (XDG Base Directory Specification 0.8)
        return Path(xdg, "multistream")
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local", "multistream", "Cache")
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "multistream"


def json_object(content: bytes | str, *, where: str, error: type[MultistreamError] = DataError) -> dict[str, Any]:
    """The JSON object in a file's content; raises `error` for any other content, damaged or nested too deeply."""
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        value = json.loads(text)
    except (ValueError, RecursionError) as cause:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        detail = "it is nested too deeply" if isinstance(cause, RecursionError) else str(cause)[:200]
        raise error(where, f"it is damaged: {detail}.", right="It must hold one JSON object.") from cause
    if not isinstance(value, dict):
        raise error(where, f"it holds a JSON {type(value).__name__}.", right="It must hold one JSON object.")
    return value


def sha256_file(path: str | Path) -> str:
    """The sha256 of a file's bytes, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove(path: Path) -> None:
    """Removes a file, a folder with its content, or a link (not its target); does nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def clean(folder: Path, *, locked: bool = False) -> tuple[Path, ...]:
    """Removes the temporary files of dead processes in `folder`; returns their paths.

    It is unknown whether a process of another machine is alive: its files are removed after a day without a change.
    With `locked`, the caller holds the lock of all processes that write here, so all files but its own are removed.
    """
    with writing(folder):
        stale = [
            path for path in folder.glob(".tmp-*") if path.name not in _in_flight and _is_stale(path, locked=locked)
        ]
        return tuple(path for path in stale if _take_away(path))


def _is_stale(path: Path, *, locked: bool) -> bool:
    match = _TEMPORARY.fullmatch(path.name)
    if match is None or locked:
        return match is not None
    pid, space = int(match[1]), match[2]
    if space == process_space():
        return pid == os.getpid() or not is_alive(pid)
    return time.time() - _last_change(path) > ABANDONED


def _last_change(path: Path) -> float:
    """The last modification time of a file, or of anything in a folder, in seconds; now if it no longer exists."""
    try:
        inside = () if path.is_symlink() else path.rglob("*")
        times: list[float] = [part.lstat().st_mtime for part in (path, *inside)]
    except FileNotFoundError:  # it has just been renamed or removed
        return time.time()
    return max(times)


def _take_away(path: Path) -> bool:
    """Removes a temporary file; False if another process, which cleans at the same time, was first."""
    with temporary(path.parent) as own:
        try:
            path.rename(own)
        except FileNotFoundError:
            return False
    return True
