"""Photos and data sets at URLs (s3://, gs://, https://, memory://, ...), read with fsspec."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from multistream.data.file_formats import is_image
from multistream.errors import DataError, PluginError, UsageError, said_by
from multistream.files import cache_root, clean, make_folder, remove, temporary, writing

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def is_url(text: str) -> bool:
    """Whether a text is a URL.

    >>> is_url("s3://bucket/a.jpg"), is_url("a.jpg"), is_url("emotion6:/data/e6")
    (True, False, False)
    """
    return _URL.match(text) is not None


def storage_of(url: str) -> tuple[AbstractFileSystem, str]:
    """The storage of a URL, and the path in it.

    Raises PluginError if a library for it is missing, UsageError for an unknown protocol.
    """
    from fsspec.core import url_to_fs  # takes 60 ms, and few calls need it

    protocol = url.partition("://")[0]
    try:
        system, path = url_to_fs(url)
    except ImportError as error:
        do = "Install what it names, or all: pip install 'multistream[urls]'."
        raise PluginError(url, f"{protocol}:// needs another library: {error}.", do=do) from error
    except ValueError as error:
        right = "For example s3, gs, az, hf, https or file."
        raise UsageError(url, f"the protocol {protocol!r} is unknown.", right=right) from error
    return system, str(path)


def read_url(url: str, *, limit: int) -> bytes:
    """The first `limit` + 1 bytes of a file. Raises FileNotFoundError, or any exception of its storage."""
    system, path = storage_of(url)
    content: bytes = system.cat_file(path, start=0, end=limit + 1)
    return content


def photos_at(url: str) -> Iterator[str]:
    """The URL itself or, for a folder, the URLs of all images below it, sorted. DataError if it cannot be read.

    A URL with an image's suffix is a photo, without a request to the storage. So is an HTTP URL, because HTTP has no
    folders, unless it ends with a slash.
    """
    system, path = storage_of(url)
    is_http = url.lower().startswith("http")
    with reported(url):
        if is_image(path) or (is_http and not path.endswith("/")) or not system.isdir(path):
            yield url
            return
        yield from (str(system.unstrip_protocol(name)) for name in system.find(path) if is_image(name))


@contextmanager
def reported(url: str) -> Iterator[None]:
    """Converts exceptions of a storage in the block to DataError."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # each storage has its own exceptions
        do = "Check the address, the network and the access."
        raise DataError(url, f"it cannot be read: {said_by(error)}.", do=do) from error


AT_ONCE: Final = 64
"""Files that are copied in parallel before they are recorded."""

RECORD: Final = ".copied.jsonl"
"""The file with a line [name, stamp] for each copied file; the last line of a name is valid."""

STAMPS: Final = ("size", "ETag", "etag", "mtime", "LastModified", "last_modified", "created", "md5Hash")
"""Fields of a storage's file information that change with the file's content."""


def local_copy(url: str) -> Path:
    """A copy of the file at a URL, or of the folder with all files below it.

    Only new and changed files are copied; an interrupted copy is continued. Raises DataError.
    """
    from filelock import FileLock  # takes 50 ms, and few calls need it

    system, root = storage_of(url)
    with reported(url):
        found: Mapping[str, Mapping[str, Any]] = system.find(root, detail=True)
        stamps = {path: _stamp(info or system.info(path)) for path, info in found.items()}
    if not found:
        raise DataError(url, "there is no file.", do="Check the address.")
    top = PurePosixPath(root.partition("?")[0]).name or "root"
    paths = {_name(path, root, top, url): path for path in found}
    folder = cache_root() / "urls" / hashlib.sha256(url.encode()).hexdigest()[:32]
    make_folder(folder)
    with FileLock(folder / ".lock", preserve_lock_file=True):
        clean(folder, locked=True)
        _update(system, url, folder, paths, stamps)
    return folder / top


def _update(
    system: AbstractFileSystem, url: str, folder: Path, paths: Mapping[str, str], stamps: Mapping[str, str]
) -> None:
    """Copies missing files and removes deleted ones. `paths` in the storage are by name, `stamps` by path."""
    have = _recorded(folder / RECORD)
    for name in have.keys() - paths.keys():
        remove(folder / name)
    missing = [n for n, path in paths.items() if have.get(n) != stamps[path] or not (folder / n).is_file()]
    for start in range(0, len(missing), AT_ONCE):
        names = missing[start : start + AT_ONCE]
        _copy(system, url, folder, {name: paths[name] for name in names})
        with writing(folder), (folder / RECORD).open("a", encoding="utf-8") as record:
            record.writelines(json.dumps([name, stamps[paths[name]]]) + "\n" for name in names)


def _copy(system: AbstractFileSystem, url: str, folder: Path, paths: Mapping[str, str]) -> None:
    """Copies these files in parallel, and moves them to their final paths when all are complete."""
    with temporary(folder) as place:
        place.mkdir()
        files = {name: place / str(number) for number, name in enumerate(paths)}
        with reported(url):
            system.get(list(paths.values()), list(map(str, files.values())))
        for name, file in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            file.replace(folder / name)


def _recorded(record: Path) -> dict[str, str]:
    """{name: stamp} of the copied files; a line that was truncated by a crash is ignored."""
    have: dict[str, str] = {}
    lines = record.read_text(encoding="utf-8").splitlines() if record.is_file() else []
    for line in lines:
        try:
            name, stamp = json.loads(line)
        except ValueError:
            continue
        have[name] = stamp
    return have


def _name(path: str, root: str, top: str, url: str) -> str:
    """The relative path of a file in the copy: below `top`, as in the storage."""
    inner = path.removeprefix(root.rstrip("/")).lstrip("/")
    if ".." in inner.split("/"):
        raise DataError(url, f"{path!r} leads outside.")
    return f"{top}/{inner}" if inner else top


def _stamp(info: Mapping[str, Any]) -> str:
    """A text that changes with the content of a file, made without reading it."""
    return ", ".join(f"{name} {info[name]}" for name in STAMPS if info.get(name) is not None)
