"""Lists the image files below a folder and counts ignored entries; converts paths in lists to ids of images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from multistream.data.file_formats import is_image
from multistream.data.urls import is_url
from multistream.errors import DataError

HIDDEN = "hidden or system files and folders"
OUTSIDE = "links that lead outside the folder (data.allow_outside = true follows them)"
LOOPS = "links that lead back to a folder above them"
IRREGULAR = "entries that are not regular files (pipes, links to nothing)"
OTHER = "files that are not images by their name"
UNREADABLE = "folders that cannot be read"

_SYSTEM = frozenset(
    (
        *("__MACOSX", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN", "lost+found", "__pycache__"),
        # Folders of network disks (Synology, QNAP) for thumbnails and deleted files.
        *("@eaDir", "@SynoResource", "#recycle", "@Recycle", "@Recently-Snapshot"),
    )
)


@dataclass(frozen=True)
class Listing:
    """Image files (`ids`) and `folders` as sorted POSIX paths relative to `root`, and counts of ignored entries."""

    root: Path
    ids: tuple[str, ...]
    folders: tuple[str, ...]
    ignored: Mapping[str, int]

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for each kind of ignored entry."""
        return tuple(f"{what}: {count:,} ignored" for what, count in sorted(self.ignored.items()))


@dataclass
class _Walk:
    """The state of a walk through a folder."""

    real: str
    allow_outside: bool
    strict: bool
    ids: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    def enter(self, folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> None:
        """Adds the entries of `folder`; `above` are device and inode of it and its parents, to detect loops."""
        try:
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda each: each.name):
                    self._take(entry, prefix + entry.name, above)
        except OSError as error:
            if self.strict or not prefix:
                raise DataError(folder, f"the folder cannot be read: {error.strerror}.") from error
            self.ignored[UNREADABLE] += 1

    def _take(self, entry: os.DirEntry[str], name: str, above: frozenset[tuple[int, int]]) -> None:
        if entry.name.startswith(".") or entry.name in _SYSTEM:
            self.ignored[HIDDEN] += 1
        elif entry.is_symlink() and not self.allow_outside and not is_inside(os.path.realpath(entry), self.real):
            self.ignored[OUTSIDE] += 1
        elif entry.is_dir():
            self._take_folder(entry, name, above)
        elif not entry.is_file():
            self.ignored[IRREGULAR] += 1
        elif is_image(entry.name):
            self.ids.append(name)
        else:
            self.ignored[OTHER] += 1

    def _take_folder(self, entry: os.DirEntry[str], name: str, above: frozenset[tuple[int, int]]) -> None:
        status = entry.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            self.ignored[LOOPS] += 1
            return
        self.folders.append(name)
        self.enter(Path(entry.path), f"{name}/", above | {identity})


def list_images(root: Path, *, allow_outside: bool = False, strict: bool = True) -> Listing:
    """Lists all image files below `root`, by suffix; links that lead outside it are only followed if allowed.

    A folder below it that cannot be read raises DataError, or is counted as ignored if not `strict`.
    """
    try:
        status = root.stat()
    except OSError as error:
        raise DataError(root, f"the folder cannot be read: {error.strerror}.") from error
    walk = _Walk(os.path.realpath(root), allow_outside, strict)
    walk.enter(root, "", frozenset([(status.st_dev, status.st_ino)]))
    return Listing(root, tuple(sorted(walk.ids)), tuple(sorted(walk.folders)), dict(walk.ignored))


def is_inside(real: str, folder: str) -> bool:
    """Whether the resolved path `real` is the resolved path `folder`, or is below it."""
    return real == folder or real.startswith(folder.rstrip(os.sep) + os.sep)


class Root:
    """The folder that a data set's paths are relative to; they may lead outside it only if `allow_outside`."""

    def __init__(self, folder: Path, *, allow_outside: bool = False) -> None:
        self.folder, self.allow_outside = folder, allow_outside
        self._real = os.path.realpath(folder)

    def image_id(self, text: str, where: str) -> str:
        """The id (relative to the root, with slashes) of the path `text`; DataError if it is not allowed.

        The file system is only read to recognise trailing spaces and backslashes of Windows.
        """
        name = text if self.exists(text) else text.strip()
        faults = (
            (not name, "the path is empty.", "Fill it in, or remove the line."),
            (is_url(name), f"{name!r} is a URL.", "Download the images, and list their paths."),
            ("\0" in name, f"{name!r} holds a NUL.", "Save the file as UTF-8."),
        )
        for is_wrong, what, do in faults:
            if is_wrong:
                raise DataError(where, what, do=do)
        if not self.exists(name):
            name = name.replace("\\", "/")
        absolute = os.path.normpath(os.path.join(self.folder, name))
        if not self.allow_outside and not self._holds(absolute):
            do = f"Move it below {self.folder}, or set data.allow_outside = true."
            raise DataError(where, f"{name!r} leads outside the folder of the data set.", do=do)
        return PurePosixPath(os.path.relpath(absolute, os.path.normpath(self.folder))).as_posix()

    def exists(self, name: str) -> bool:
        """Whether `name`, exactly as written, is a regular file."""
        return "\0" not in name and os.path.isfile(os.path.join(self.folder, name))

    def _holds(self, absolute: str) -> bool:
        """Whether a path is below the root, both as written and with its links resolved."""
        written = is_inside(os.path.abspath(absolute), os.path.abspath(self.folder))
        return (written or is_inside(absolute, self._real)) and is_inside(os.path.realpath(absolute), self._real)
