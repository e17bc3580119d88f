"""Files of torch.save, in the zip form and the older one: tensors only, vetted before torch reads them."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Collection, Mapping
from io import SEEK_CUR, BytesIO
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import IO, Any, Self
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import torch
from torch import Tensor
from torch.serialization import safe_globals

from multistream.weights.pickle_check import DICTS, Outline, Storage
from multistream.weights.tensors import Contents, Malformed

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." b"\x80\x02M\xe9\x03."  # fmt: skip
"""The two pickles with which torch's older files begin: its number and its protocol."""

WRAPPERS = ("state_dict", "model", "state_dict_ema", "model_state_dict", "net")
"""Names under which training scripts put the tensors."""

MOST_WRAPPERS = 3
"""Wrappers in wrappers; a pickle may also hold itself."""


def read_pytorch(path: Path) -> Contents:
    """The tensors of a state dict, also of one that a training script wrapped; Malformed for everything else."""
    with path.open("rb") as file:
        records = _vet_zip(file) if file.read(4) == b"PK\x03\x04" else _vet_old(file)
        file.seek(0)  # the file that was vetted, not one of the same name
        try:
            with safe_globals([(_substitute(name), text) for name in records for text in _spellings(name)]):
                found: Any = torch.load(file, map_location="cpu", weights_only=True)
        # After the vetting little is left to go wrong, but torch does not say with which errors.
        except Exception as error:
            raise Malformed(f"torch cannot read it: {str(error).partition(chr(10))[0][:200]}") from error
    return _unwrapped(found)


class PassedOver:
    """Stands for an object that is not a tensor, whatever it is made of: nothing of it is kept."""

    def __new__(cls, *arguments: object) -> Self:
        """Takes what the object would be made of."""
        del arguments
        return super().__new__(cls)

    def __init__(self, *arguments: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _plain_dict(*arguments: object) -> dict[Any, Any]:
    """An empty dict instead of a defaultdict or a Counter; its items follow."""
    del arguments
    return {}


def _substitute(name: str) -> Callable[..., object]:
    return _plain_dict if name in DICTS else PassedOver


def _vet_zip(file: IO[bytes]) -> set[str]:
    """Checks that the pickle builds tensors and records alone, and each storage has the bytes that it claims.

    Returns the names of the records.
    """
    try:
        with ZipFile(file) as archive:
            entries = _checked_entries(archive, size=_size(file))
            pickle = _pickle_of(entries)
            outline = Outline(BytesIO(archive.read(pickle)))
    except Malformed:
        raise
    except (BadZipFile, ValueError, NotImplementedError, OverflowError, EOFError, struct.error) as error:
        raise Malformed(f"the zip is damaged: {error}") from error
    for storage in outline.storages.values():
        entry = entries.get(pickle.replace("data.pkl", f"data/{storage.key}"))
        if entry is None or entry.file_size != _bytes(storage):
            raise Malformed(f"storage {storage.key!r} does not have the {_bytes(storage):,} bytes that it claims")
    return outline.records


def _checked_entries(archive: ZipFile, *, size: int) -> dict[str, ZipInfo]:
    """The entries of the zip by name: stored as they are, and not larger than the file of `size` bytes."""
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(entries) < len(archive.infolist()):
        raise Malformed("two of its entries have the same name")
    if any(entry.compress_type != ZIP_STORED or entry.flag_bits & 1 for entry in entries.values()):
        raise Malformed("it is compressed or encrypted; torch.save never does that")
    if sum(entry.file_size for entry in entries.values()) > size:
        raise Malformed("its entries are larger than the file")
    return entries


def _pickle_of(entries: Collection[str]) -> str:
    """The name of the one pickle that torch.save writes."""
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1 or pickles[0].replace("data.pkl", "constants.pkl") in entries:
        raise Malformed("it is not a zip file from torch.save; TorchScript is not supported")
    return pickles[0]


def _vet_old(file: IO[bytes]) -> set[str]:
    """The same for the older form: five pickles, and then each storage as a count and the numbers."""
    end = _size(file)
    if not end:
        raise Malformed("it is empty")
    with mmap(file.fileno(), 0, access=ACCESS_READ) as mapped:
        if mapped[: len(MAGIC)] != MAGIC:
            raise Malformed("it was not written by torch.save; other pickles can run arbitrary code and are not read")
        mapped.seek(len(MAGIC))
        system = Outline(mapped).value
        if not isinstance(system, dict) or system.get("little_endian", True) is not True:
            raise Malformed("it was written by a big-endian machine")
        outline, keys = Outline(mapped), Outline(mapped).value
        if not isinstance(keys, list) or sorted(map(repr, keys)) != sorted(map(repr, outline.storages)):
            raise Malformed("its list of storages does not match its tensors")
        for storage in (outline.storages[key] for key in keys):
            if mapped.read(8) != struct.pack("<q", storage.count):
                raise Malformed(f"storage {storage.key!r} does not have the size that it claims")
            if mapped.tell() + _bytes(storage) > end:
                raise Malformed(f"it ends inside storage {storage.key!r}")
            mapped.seek(_bytes(storage), SEEK_CUR)
        return outline.records


def _spellings(name: str) -> tuple[str, ...]:
    """The name of a global as torch may spell it: Python 2's modules under their names of today, too."""
    dotted = name.replace(" ", ".")
    return (dotted, dotted.replace("__builtin__.long", "builtins.int").replace("__builtin__.", "builtins."))


def _bytes(storage: Storage) -> int:
    return storage.count * storage.dtype.itemsize


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _unwrapped(found: Any) -> Contents:
    """The tensors by name, out of a training script's wrappers."""
    notes: list[str] = []
    unused: list[str] = []
    for _ in range(MOST_WRAPPERS):
        wrapper, *others = [name for name in WRAPPERS if _holds(found, name)] or [""]
        if not wrapper:
            break
        unused += [name for name in others if any(isinstance(value, Tensor) for value in found[name].values())]
        notes.append(f"taken from {wrapper!r}")
        found = found[wrapper]
    notes += [f"{name!r} is a second set of weights in the file and is not used" for name in unused]
    if not isinstance(found, Mapping):
        raise Malformed(f"it holds a {type(found).__name__}, not a dict of tensors")
    tensors = {str(name): value.detach() for name, value in found.items() if isinstance(value, Tensor)}
    if len(tensors) < len(found):
        notes.append(f"{len(found) - len(tensors)} entries that are not tensors left out")
    return Contents(tensors, notes=tuple(notes), unused=tuple(unused))


def _holds(found: Any, name: str) -> bool:
    return isinstance(found, Mapping) and isinstance(found.get(name), Mapping)
