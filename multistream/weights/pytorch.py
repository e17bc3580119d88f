"""Reads files of torch.save, in the zip form and the older one: tensors only, checked before torch reads them."""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Mapping, Sequence
from io import SEEK_CUR, BytesIO
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import IO, Any, Self
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import torch
from torch import Tensor
from torch.serialization import safe_globals

from multistream.weights.pickle_check import DICTS, Outline, Storage
from multistream.weights.tensors import Contents, expect, malformed

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." b"\x80\x02M\xe9\x03."  # fmt: skip
"""The two pickles at the start of torch's older files: magic number and protocol."""

WRAPPERS = ("state_dict", "model", "state_dict_ema", "model_state_dict", "net")
"""Keys under which training scripts store the tensors."""

MOST_WRAPPERS = 3
"""Maximum depth of nested wrappers; a pickle may contain itself."""

ZIP_ERRORS = (BadZipFile, ValueError, NotImplementedError, OverflowError, EOFError, struct.error)
"""Exceptions of zipfile for a damaged file."""


def read_pytorch(path: Path) -> Contents:
    """Reads the tensors of a state dict, also from a training script's wrappers. Raises Malformed for other content."""
    with path.open("rb") as file:
        records = _vet_zip(file) if file.read(4) == b"PK\x03\x04" else _vet_old(file)
        file.seek(0)  # the same open file that was checked, which cannot be replaced meanwhile
        substitutes = dict.fromkeys(records, PassedOver) | dict.fromkeys(records & DICTS, _plain_dict)
        known: list[Any] = [(made, text) for name, made in substitutes.items() for text in _spellings(name)]
        # After the checks few errors are possible, but torch does not document their classes.
        with malformed("torch cannot read it", Exception), safe_globals(known):
            found: Any = torch.load(file, map_location="cpu", weights_only=True)
    return _unwrapped(found)


class PassedOver:
    """Replaces an object that is not a tensor; its arguments and state are discarded."""

    def __new__(cls, *_: object) -> Self:
        """Accepts the arguments of the original object's constructor."""
        return super().__new__(cls)

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _plain_dict(*_: object) -> dict[Any, Any]:
    """Returns an empty dict instead of a defaultdict or Counter; its items are set afterwards."""
    return {}


def _vet_zip(file: IO[bytes]) -> set[str]:
    """Checks that the pickle builds only tensors and records, and that each storage has the bytes that it claims.

    Returns the names of the records.
    """
    with malformed("the zip is damaged", *ZIP_ERRORS), ZipFile(file) as archive:
        sizes = _checked_sizes(archive.infolist(), _size(file))
        pickle = _pickle_of(sizes)
        outline = Outline(BytesIO(archive.read(pickle)))
    for storage in outline.storages.values():
        size = sizes.get(pickle.replace("data.pkl", f"data/{storage.key}"))
        claimed = _bytes(storage)
        expect(size == claimed, f"storage {storage.key!r} does not have the {claimed:,} bytes that it claims")
    return outline.records


def _checked_sizes(entries: Sequence[ZipInfo], most: int) -> dict[str, int]:
    """Returns each entry's size by name; entries must be uncompressed and not exceed the file's size, `most`."""
    sizes = {entry.filename: entry.file_size for entry in entries}
    expect(len(sizes) == len(entries), "two of its entries have the same name")
    forms = {(entry.compress_type, entry.flag_bits & 1) for entry in entries}
    expect(forms <= {(ZIP_STORED, 0)}, "it is compressed or encrypted; torch.save never does that")
    expect(sum(sizes.values()) <= most, "its entries are larger than the file")
    return sizes


def _pickle_of(entries: Collection[str]) -> str:
    """Returns the name of the pickle that torch.save writes."""
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    is_script = any(name.endswith("/constants.pkl") for name in entries)
    expect(len(pickles) == 1 and not is_script, "it is not a zip file from torch.save; TorchScript is not supported")
    return pickles[0]


def _vet_old(file: IO[bytes]) -> set[str]:
    """Checks the older form like `_vet_zip`: five pickles, then each storage as a count and its numbers."""
    end = _size(file)
    expect(end > 0, "it is empty")
    with mmap(file.fileno(), 0, access=ACCESS_READ) as mapped:
        is_torch = mapped.read(len(MAGIC)) == MAGIC
        expect(is_torch, "it was not written by torch.save; other pickles can run arbitrary code and are not read")
        system = Outline(mapped).value
        is_little = isinstance(system, dict) and system.get("little_endian", True) is True
        expect(is_little, "it was written by a big-endian machine")
        outline, keys = Outline(mapped), Outline(mapped).value
        same = isinstance(keys, list) and sorted(map(repr, keys)) == sorted(map(repr, outline.storages))
        expect(same, "its list of storages does not match its tensors")
        for key in keys:
            storage = outline.storages[key]
            is_count = mapped.read(8) == struct.pack("<q", storage.count)
            expect(is_count, f"storage {key!r} does not have the size that it claims")
            expect(mapped.tell() + _bytes(storage) <= end, f"it ends inside storage {key!r}")
            mapped.seek(_bytes(storage), SEEK_CUR)
        return outline.records


def _spellings(name: str) -> tuple[str, ...]:
    """Returns the spellings of a global that torch may use: Python 2's module names also in their present form."""
    dotted = name.replace(" ", ".")
    return (dotted, dotted.replace("__builtin__.long", "builtins.int").replace("__builtin__.", "builtins."))


def _bytes(storage: Storage) -> int:
    return storage.count * storage.dtype.itemsize


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _unwrapped(found: Any) -> Contents:
    """Returns the tensors by name, without a training script's wrappers."""
    expect(isinstance(found, Mapping), f"it holds a {type(found).__name__}, not a dict of tensors")
    notes: list[str] = []
    unused: list[str] = []
    while len(notes) < MOST_WRAPPERS and (wrapped := _wrapped(found)):
        wrapper, *others = wrapped
        unused += [name for name in others if _tensors(wrapped[name])]
        notes.append(f"taken from {wrapper!r}")
        found = wrapped[wrapper]
    notes += [f"{name!r} is a second set of weights in the file and is not used" for name in unused]
    tensors = _tensors(found)
    if len(tensors) < len(found):
        notes.append(f"{len(found) - len(tensors)} entries that are not tensors left out")
    return Contents(tensors, notes=tuple(notes), unused=tuple(unused))


def _wrapped(found: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Returns the dicts under a wrapper's key, the most common key first."""
    return {name: found[name] for name in WRAPPERS if isinstance(found.get(name), Mapping)}


def _tensors(found: Mapping[str, Any]) -> dict[str, Tensor]:
    return {str(name): value.detach() for name, value in found.items() if isinstance(value, Tensor)}
