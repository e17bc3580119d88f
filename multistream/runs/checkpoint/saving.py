"""Writes checkpoints atomically."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors.torch import save as to_safetensors
from torch import Tensor

from multistream import files
from multistream.errors import CannotResume
from multistream.runs.checkpoint.manifest import (
    JSON,
    MANIFEST,
    SEAL,
    STATE,
    Manifest,
    ManifestEntry,
    file_of,
    newest_first,
    number_of,
    read_manifest,
    seal_of,
    to_json,
)

GOOD_ONES = 2
"""Number of complete checkpoints to keep: the newest, and the one before in case the newest is damaged."""


def save(
    folder: Path,
    *,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, JSON],
    about: Mapping[str, JSON],
    keep: Collection[int] = (),
) -> Path:
    """Writes `folder/step-N` and returns it; then removes older ones, except the newest two and the steps in `keep`.

    `tensors` are by group and name; `state` and `about` are JSON objects, the latter is part of the manifest. An
    existing folder of the same step is kept; the new one is then named `step-N-1` and has precedence. Raises DiskFull
    (exit 74) with the bytes needed and free if the disk refuses; existing checkpoints are then unchanged.
    """
    needed = sum(tensor.numel() * tensor.element_size() for group in tensors.values() for tensor in group.values())
    with files.temporary(folder, noun=f"step-{step}", needed=needed) as temporary:
        temporary.mkdir()
        _write_all(temporary, step, tensors, state, about)
        files.sync_folder(temporary)
        path = _free_name(folder, step)
        temporary.rename(path)
        files.sync_folder(folder)
    _prune(folder, keep=keep)
    return path


def clean(folder: Path) -> tuple[Path, ...]:
    """Removes incomplete checkpoints of processes that have ended, on any machine; returns their paths.

    The caller must hold the run's lock, so that no other process is writing checkpoints.
    """
    return files.clean(folder, locked=True)


def _write_all(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, JSON],
    about: Mapping[str, JSON],
) -> None:
    """Writes the files of one checkpoint, with one group in memory at a time; the manifest is last."""
    entries = {file_of(group): _write_tensors(folder / file_of(group), named) for group, named in tensors.items()}
    entries[STATE] = _write(folder / STATE, to_json(state))
    manifest = Manifest(step, entries, about).to_bytes()
    _write(folder / MANIFEST, manifest)
    _write(folder / SEAL, seal_of(manifest))


def _write_tensors(path: Path, named: Mapping[str, Tensor]) -> ManifestEntry:
    return _write(path, to_safetensors(_separate(named)))


def _separate(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies the tensors to the CPU, contiguous and without shared memory, which safetensors cannot store."""
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in named.items():
        plain = tensor.detach().cpu().contiguous()
        address = plain.untyped_storage().data_ptr()
        if address in seen or plain.untyped_storage().nbytes() != plain.numel() * plain.element_size():
            plain = plain.clone()
        seen.add(address)
        separate[name] = plain
    return separate


def _write(path: Path, content: bytes) -> ManifestEntry:
    """Writes and syncs a new file. The sha256 is that of the data in memory, so that write errors are detected."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return ManifestEntry(len(content), hashlib.sha256(content).hexdigest())


def _free_name(folder: Path, step: int) -> Path:
    """Returns step-N, or step-N-1, ... if it exists. Replacing it would leave a moment without either."""
    saved = [again for found, again in map(number_of, newest_first(folder)) if found == step]
    return folder / (f"step-{step}-{max(saved) + 1}" if saved else f"step-{step}")


def _prune(folder: Path, *, keep: Collection[int]) -> None:
    """Removes checkpoints older than the newest complete ones; truncated ones do not count as complete."""
    good = 0
    for path in newest_first(folder):
        if good >= GOOD_ONES and number_of(path)[0] not in keep:
            _remove(path)
        elif good < GOOD_ONES:
            good += _is_complete(path)


def _remove(path: Path) -> None:
    """Renames a checkpoint before it is removed, so that a partly removed one is not found."""
    with files.temporary(path.parent, noun="step-0") as gone:
        path.rename(gone)


def _is_complete(path: Path) -> bool:
    """Returns whether all files exist with their sizes; contents were verified when they were written."""
    try:
        read_manifest(path)
    except CannotResume:
        return False
    return True
