"""Untrusted paths in lists: from a path to the id of an image below the root."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from multistream.data.image_files import is_inside
from multistream.data.urls import is_url
from multistream.errors import DataError


class Root:
    """The folder that a data set's paths are relative to, and may not leave unless `allow_outside`."""

    def __init__(self, folder: Path, *, allow_outside: bool = False) -> None:
        self.folder, self.allow_outside = folder, allow_outside
        self._real = os.path.realpath(folder)

    def image_id(self, text: str, where: str) -> str:
        """The id (relative to the root, with slashes) of the path `text`; DataError if it is not to be used.

        The file system is only consulted to recognise trailing spaces and Windows' slashes.
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
        """Whether `name`, as it is written, is a regular file."""
        return "\0" not in name and os.path.isfile(os.path.join(self.folder, name))

    def _holds(self, absolute: str) -> bool:
        """Whether a path lies below the root, both as it is written and where its links lead."""
        written = is_inside(os.path.abspath(absolute), os.path.abspath(self.folder))
        return (written or is_inside(absolute, self._real)) and is_inside(os.path.realpath(absolute), self._real)
