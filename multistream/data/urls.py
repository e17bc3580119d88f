"""Photos at URLs (s3://, gs://, https://, memory://, ...), which fsspec reads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from multistream.data.file_formats import SUFFIXES
from multistream.errors import DataError, PluginError, UsageError

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
    """The storage of a URL, and the path there.

    Raises PluginError where a library is missing for it, UsageError for an unknown protocol.
    """
    from fsspec.core import url_to_fs  # with what it imports 60 ms, which few calls need

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
    """The first `limit` + 1 bytes of a file. Raises FileNotFoundError, or what its storage raises."""
    system, path = storage_of(url)
    content: bytes = system.cat_file(path, start=0, end=limit + 1)
    return content


def photos_at(url: str) -> Iterator[str]:
    """The URL itself or, of a folder, those of all images below it, sorted. DataError for a folder that cannot be read.

    A URL that ends as an image does is one, without a look at the storage; and so is one of HTTP, which has no folders,
    unless it ends with a slash.
    """
    system, path = storage_of(url)
    is_http = url.lower().startswith("http")
    with reported(url):
        if is_image(path) or (is_http and not path.endswith("/")) or not system.isdir(path):
            yield url
            return
        yield from (str(system.unstrip_protocol(name)) for name in system.find(path) if is_image(name))


def is_image(path: str) -> bool:
    """Whether a path ends as an image does."""
    return PurePosixPath(path).suffix.lower() in SUFFIXES


@contextmanager
def reported(url: str) -> Iterator[None]:
    """What a storage raises becomes a DataError."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # each storage has classes of its own
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            url, f"it cannot be read: {said}.", do="Check the address, the network and the access."
        ) from error
