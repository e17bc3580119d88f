"""Atomic file writing; a disk error becomes one line with exit code 74."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from multistream.errors import DataError, MultistreamError, UsageError
from multistream.system_errors import disk_error

_STALE = re.compile(r"\.tmp-(?:[a-z]+-\d+-)?(\d+)-[0-9a-f]{8}")
_in_flight: set[Path] = set()  # temporary files of this process: pids are reused, so the pid alone does not identify it


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
def temporary(folder: Path, *, noun: str = "", needed: int = 0) -> Iterator[Path]:
    """An unused path `.tmp-[NOUN-]PID-RANDOM` in `folder`, which is made if missing.

    A file or folder of that name is removed at the end. Raises DiskFull if the disk is full or cannot be written.
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
        found = json.loads(text)
    except (ValueError, RecursionError) as cause:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        detail = "it is nested too deeply" if isinstance(cause, RecursionError) else str(cause)[:200]
        raise error(where, f"it is damaged: {detail}.", right="It must hold one JSON object.") from cause
    if not isinstance(found, dict):
        raise error(where, f"it holds a JSON {type(found).__name__}.", right="It must hold one JSON object.")
    return found


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


def clean(folder: Path) -> tuple[Path, ...]:
    """Removes the temporary files that dead processes left in `folder`; returns their paths."""
    found = [(path, _STALE.fullmatch(path.name)) for path in folder.glob(".tmp-*")]
    stale = [path for path, match in found if match and _is_stale(path, pid=int(match[1]))]
    with writing(folder):
        for path in stale:
            remove(path)
    return tuple(stale)


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


def _is_stale(path: Path, *, pid: int) -> bool:
    return path not in _in_flight if pid == os.getpid() else not is_alive(pid)
