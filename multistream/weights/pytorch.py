"""Files of torch.save, in the zip form and the older one: tensors only, vetted before torch reads them."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from io import SEEK_CUR, BytesIO
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from torch import Tensor

from multistream.weights.pickle_check import Outline, Storage
from multistream.weights.tensors import Contents, Malformed

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." b"\x80\x02M\xe9\x03."  # fmt: skip
"""The two pickles with which torch's older files begin: its number and its protocol."""

WRAPPERS = ("state_dict", "model", "state_dict_ema", "model_state_dict", "net")
"""Names under which training scripts put the tensors."""

MOST_WRAPPERS = 3
"""Wrappers in wrappers; a pickle may also hold itself."""

PARALLEL = "module."
"""What DataParallel puts before every name."""


def read_pytorch(path: Path) -> Contents:
    """The tensors of a state dict, also of one that a training script wrapped; Malformed for everything else."""
    with path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            _vet_zip(file)
        else:
            _vet_old(file)
        file.seek(0)  # the file that was vetted, not one of the same name
        try:
            found: Any = torch.load(file, map_location="cpu", weights_only=True)
        # After the vetting little is left to go wrong, but torch does not say with which errors.
        except Exception as error:
            raise Malformed(f"torch cannot read it: {str(error).partition(chr(10))[0][:200]}") from error
    return _unwrapped(found)


def _vet_zip(file: IO[bytes]) -> None:
    """Checks that the pickle builds tensors alone, and each storage has the bytes that it claims."""
    try:
        with ZipFile(file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if len(entries) < len(archive.infolist()):
                raise Malformed("two of its parts have one name")
            if any(entry.compress_type != ZIP_STORED or entry.flag_bits & 1 for entry in entries.values()):
                raise Malformed("it is compressed or encrypted; torch.save never does that")
            if sum(entry.file_size for entry in entries.values()) > _size(file):
                raise Malformed("its parts are larger than the file")
            pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
            if len(pickles) != 1 or pickles[0].replace("data.pkl", "constants.pkl") in entries:
                raise Malformed("it is no zip of torch.save's; TorchScript is not read")
            storages = Outline(BytesIO(archive.read(pickles[0]))).storages
    except Malformed:
        raise
    except (BadZipFile, ValueError, NotImplementedError, OverflowError, EOFError, struct.error) as error:
        raise Malformed(f"the zip is damaged: {error}") from error
    for storage in storages.values():
        entry = entries.get(pickles[0].replace("data.pkl", f"data/{storage.key}"))
        if entry is None or entry.file_size != _bytes(storage):
            raise Malformed(f"storage {storage.key!r} has not the {_bytes(storage):,} bytes that it claims")


def _vet_old(file: IO[bytes]) -> None:
    """The same for the older form: five pickles, and then each storage as a count and the numbers."""
    end = _size(file)
    if not end:
        raise Malformed("it is empty")
    with mmap(file.fileno(), 0, access=ACCESS_READ) as mapped:
        if mapped[: len(MAGIC)] != MAGIC:
            raise Malformed("it is no file of torch.save's. Other pickles can run anything, and are not read")
        mapped.seek(len(MAGIC))
        system = Outline(mapped).value
        if not isinstance(system, dict) or system.get("little_endian", True) is not True:
            raise Malformed("it was written by a big-endian machine")
        storages, keys = Outline(mapped).storages, Outline(mapped).value
        if not isinstance(keys, list) or len(keys) != len(storages) or not all(_is_in(key, storages) for key in keys):
            raise Malformed("its list of storages is not that of its tensors")
        for key in keys:
            if mapped.read(8) != struct.pack("<q", storages[key].count):
                raise Malformed(f"storage {key!r} has not the size that it claims")
            if mapped.tell() + _bytes(storages[key]) > end:
                raise Malformed(f"it ends inside storage {key!r}")
            mapped.seek(_bytes(storages[key]), SEEK_CUR)


def _bytes(storage: Storage) -> int:
    return storage.count * storage.dtype.itemsize


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _unwrapped(found: Any) -> Contents:
    """The tensors by name, out of a training script's wrappers and without DataParallel's prefix."""
    notes = []
    for _ in range(MOST_WRAPPERS):
        wrapper = next((name for name in WRAPPERS if _holds(found, name)), None)
        if wrapper is not None:
            found = found[wrapper]
            notes.append(f"taken from {wrapper!r}")
    if not isinstance(found, Mapping):
        raise Malformed(f"it holds a {type(found).__name__}, not a dict of tensors")
    tensors = {str(name): value.detach() for name, value in found.items() if isinstance(value, Tensor)}
    if len(tensors) < len(found):
        notes.append(f"{len(found) - len(tensors)} entries that are no tensors left out")
    if tensors and all(name.startswith(PARALLEL) for name in tensors):
        tensors = {name.removeprefix(PARALLEL): value for name, value in tensors.items()}
        notes.append(f"prefix {PARALLEL!r} taken off")
    return Contents(tensors, notes=tuple(notes))


def _holds(found: Any, name: str) -> bool:
    return isinstance(found, Mapping) and isinstance(found.get(name), Mapping)


def _is_in(key: Any, storages: Mapping[str, Storage]) -> bool:
    return isinstance(key, str) and key in storages
