"""webdataset: photos in tar shards of WebDataset, in which the files of a sample are consecutive and share a key."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from multistream.data.file_formats import SUFFIXES
from multistream.data.layouts.assemble import Entry, part_in
from multistream.data.layouts.label_sets import class_name
from multistream.data.layouts.unpacked import Packed, packed_files, unpacked
from multistream.data.table import Table
from multistream.errors import DataError, readable

SHARDS = (".tar", ".tar.gz", ".tgz")
LABELS = ("cls", "json", "txt")
"""The extensions of files that may hold a sample's label; the first that exists is used."""

Sample = tuple[str, dict[str, bytes]]
"""A key, and {extension: content} of the files that share it."""


def webdataset(path: Path, *, label: str = "") -> Table:
    """A .tar file or a folder of them, with photos and labels; train-000000.tar is in the split train.

    A .cls or .txt file holds the label, or a .json file, in the field that `label` names, by default `label`. The
    photos are unpacked once into the user's cache folder; an id is SHARD/KEY with the photo's extension.
    """
    files = packed_files(path, *SHARDS)
    root = path if path.is_dir() else path.parent
    return unpacked(path, files, ["webdataset", label], _photos(files, root, label))


def _photos(files: list[Path], root: Path, label: str) -> Iterator[Packed]:
    """All photos; DataError, with shard and sample, for one that cannot be used."""
    for file in files:
        shard = file.relative_to(root).as_posix().removesuffix(".gz").removesuffix(".tgz").removesuffix(".tar")
        seen: set[str] = set()
        for key, members in _samples(file):
            where = f"{file}, sample {key}"
            if key in seen:
                what = "the files of one photo are not next to each other."
                raise DataError(where, what, right="WebDataset needs them sorted by key.")
            seen.add(key)
            ending = next((each for each in members if f".{each}" in SUFFIXES), None)
            if ending is None:
                right = f"One file must end with {', '.join(sorted(SUFFIXES))}."
                raise DataError(where, f"no photo is among {', '.join(members)}.", right=right)
            yield Entry(f"{shard}/{key}.{ending}", _label(members, label, where), part_in(shard)), members[ending]


def _samples(file: Path) -> Iterator[Sample]:
    """The samples of a shard in order; members that are not regular files are left out."""
    with (
        readable(file, tarfile.TarError, EOFError, OSError, what="it cannot be read as tar"),
        tarfile.open(file) as archive,
    ):
        for key, members in groupby(_members(archive, file), key=lambda member: member[0]):
            yield key, {ending: content for _, ending, content in members}


def _members(archive: tarfile.TarFile, file: Path) -> Iterator[tuple[str, str, bytes]]:
    """Key, extension and content of each file; the key ends at the first dot of the file's name (WebDataset's rule)."""
    for member in archive:
        folder, _, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        if not member.isfile() or not stem:  # folders, links, and hidden files of macOS
            continue
        key = PurePosixPath(folder, stem).as_posix()
        if key.startswith("/") or ".." in key.split("/") or "\\" in key or "\0" in key:
            raise DataError(file, f"{member.name!r} leads outside the archive.")
        content = archive.extractfile(member)
        assert content is not None, "of plain files there is always one"
        yield key, ending.lower(), content.read()


def _label(members: Mapping[str, bytes], label: str, where: str) -> str:
    """A sample's label; in JSON, the field `label` names, by default `label`."""
    order, field = ("json", *LABELS) if label else LABELS, label or "label"
    kind = next((each for each in order if each in members), None)
    if kind is None:
        raise DataError(where, "there is no label.", right=f"One file must end with {', '.join(LABELS)}.")
    try:
        text = members[kind].decode("utf-8")
        value: Any = json.loads(text)[field] if kind == "json" else text
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        right = f"A text, or JSON with the field {field}."
        raise DataError(where, f"its .{kind} file holds no label.", right=right) from error
    return class_name(value, where)
