"""The manifest of a checkpoint's folder, and the check that the folder is complete."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard

from multistream.errors import CannotResume
from multistream.files import sha256_file

JSON = Any  # the values of json: None, bool, int, float, str, and lists and dicts of these

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
SEAL: Final = "manifest.sha256"
STATE: Final = "state.json"
JSON_LIMIT: Final = 64 * 2**20
"""Bytes. A larger state or manifest is neither written nor read."""

_FOLDER = re.compile(r"step-(0|[1-9]\d{0,17})(?:-([1-9]\d{0,8}))?")
_GROUP = re.compile(r"[a-z][a-z0-9_]{0,63}")
_TENSORS = re.compile(r"([a-z][a-z0-9_]{0,63})\.safetensors")


@dataclass(frozen=True)
class ManifestEntry:
    """One file of a checkpoint: its size in bytes and its sha256."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The list of a checkpoint's files, and `about`: its origin (versions, threads, classes, plugins, ...)."""

    step: int
    files: Mapping[str, ManifestEntry]
    about: Mapping[str, JSON]

    @property
    def groups(self) -> dict[str, str]:
        """The files by the group of tensors that each contains."""
        return {match[1]: name for name in self.files if (match := _TENSORS.fullmatch(name))}

    def to_bytes(self) -> bytes:
        """Returns the manifest as a file's content."""
        files = {name: vars(entry) for name, entry in self.files.items()}
        return to_json({"format": FORMAT, "step": self.step, "files": files, "about": dict(self.about)})


def file_of(group: str) -> str:
    """Returns the file name for a group of tensors. Raises ValueError for a name that could leave the folder."""
    if not _GROUP.fullmatch(group):
        raise ValueError(f"a group of tensors is named {group!r}; it must match {_GROUP.pattern}")
    return f"{group}.safetensors"


def seal_of(manifest: bytes) -> bytes:
    """Returns the content of manifest.sha256, in the format of `sha256sum --check`."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def number_of(path: Path) -> tuple[int, int]:
    """Returns (step, number of earlier saves of that step) of a checkpoint's folder."""
    match = _FOLDER.fullmatch(path.name)
    assert match, path
    return int(match[1]), int(match[2] or 0)


def newest_first(folder: Path) -> list[Path]:
    """Lists all folders with a checkpoint's name, complete or not, newest first."""
    named = [path for path in folder.glob("step-*") if _FOLDER.fullmatch(path.name)]
    return sorted(named, key=number_of, reverse=True)


def read_manifest(path: Path) -> Manifest:
    """Reads a checkpoint's manifest and checks the files' sizes. Raises CannotResume if one is missing or wrong."""
    content = read_small(path, MANIFEST)
    if read_small(path, SEAL) != seal_of(content):
        raise damaged(path, f"{MANIFEST} does not match the sha256 in {SEAL}")
    manifest = _parsed(path, content)
    for name, entry in manifest.files.items():
        if (size := size_of(path, name)) != entry.size:
            raise damaged(path, f"{name} has {size:,} bytes, not {entry.size:,}")
    return manifest


def check_contents(path: Path, manifest: Manifest) -> None:
    """Reads every file once and compares its sha256. Raises CannotResume if one differs."""
    for name, entry in manifest.files.items():
        try:
            found = sha256_file(path / name)
        except OSError as error:
            raise damaged(path, f"{name} cannot be read ({error.strerror})") from error
        if found != entry.sha256:
            raise damaged(path, f"{name} does not match the sha256 in {MANIFEST}")


def size_of(path: Path, name: str) -> int:
    """Returns the size in bytes of a checkpoint's file, which must be a regular file, not a link or pipe."""
    try:
        status = (path / name).lstat()
    except (OSError, ValueError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise damaged(path, f"{name} {reason}") from error
    if not stat.S_ISREG(status.st_mode):
        raise damaged(path, f"{name} is not a regular file")
    return status.st_size


def read_small(path: Path, name: str) -> bytes:
    """Reads a JSON file or a seal, of limited size."""
    if (size := size_of(path, name)) > JSON_LIMIT:
        raise damaged(path, f"{name} has {size:,} bytes, more than {JSON_LIMIT:,}")
    try:
        return (path / name).read_bytes()
    except OSError as error:
        raise damaged(path, f"{name} cannot be read ({error.strerror})") from error


def from_json(path: Path, name: str, content: bytes) -> dict[str, JSON]:
    """Parses the JSON object of a checkpoint's file."""
    try:
        read = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"{name} is not valid JSON ({error})") from error
    if not isinstance(read, dict):
        raise damaged(path, f"{name} holds no JSON object")
    return read


def to_json(data: Mapping[str, JSON]) -> bytes:
    """Serialises JSON that reads back unchanged, infinities included. Raises ValueError above the size limit."""
    content = (json.dumps(data, indent=1) + "\n").encode()
    if len(content) > JSON_LIMIT:
        raise ValueError(f"the JSON of a checkpoint has {len(content):,} bytes, more than {JSON_LIMIT:,}")
    return content


def damaged(path: Path, what: str) -> CannotResume:
    """The error for a damaged checkpoint."""
    return CannotResume(str(path), f"the checkpoint is damaged: {what}.", do="Use the previous checkpoint.")


def _parsed(path: Path, content: bytes) -> Manifest:
    read = from_json(path, MANIFEST, content)
    if (version := read.get("format")) != FORMAT:
        raise CannotResume(str(path), f"its format is {version!r}.", right=f"This version reads {FORMAT}.")
    step, files, about = read.get("step"), read.get("files"), read.get("about")
    if not _is_count(step) or not isinstance(files, dict) or not isinstance(about, dict):
        raise damaged(path, f"{MANIFEST} lacks its step, files or about")
    if STATE not in files:
        raise damaged(path, f"{MANIFEST} does not name {STATE}")
    return Manifest(step, {name: _entry(path, name, entry) for name, entry in files.items()}, about)


def _entry(path: Path, name: str, entry: JSON) -> ManifestEntry:
    """Checks one entry of the manifest: a plain file name of this package, never a path."""
    if name != STATE and not _TENSORS.fullmatch(name):
        raise damaged(path, f"{MANIFEST} names {name[:80]!r}, which is not a file of a checkpoint")
    match entry:
        case {"size": int(size), "sha256": str(sha256)} if _is_count(size):
            return ManifestEntry(size, sha256)
    raise damaged(path, f"{MANIFEST} has no size and sha256 of {name}")


def _is_count(value: JSON) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
