"""Reads checkpoints; all content is verified before it is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from multistream.console import Say
from multistream.errors import CannotResume
from multistream.runs.checkpoint.manifest import (
    JSON,
    STATE,
    check_contents,
    damaged,
    from_json,
    newest_first,
    read_manifest,
    read_small,
)
from multistream.system_errors import memory_error


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of optimizer step `step`: tensors by group and name (on the CPU), state, and its origin.

    `skipped` lists newer checkpoints that are damaged, each with the reason.
    """

    path: Path
    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, JSON]
    about: Mapping[str, JSON]
    skipped: tuple[tuple[Path, str], ...] = ()


def latest(folder: Path, *, warn: Say) -> Checkpoint | None:
    """Returns the newest complete and undamaged checkpoint in `folder`, None if there is none.

    Each damaged one that is skipped is reported to `warn` and returned in `skipped`.
    """
    skipped: list[tuple[Path, str]] = []
    for path in newest_first(folder):
        try:
            return replace(load(path), skipped=tuple(skipped))
        except CannotResume as error:
            warn(str(error))
            skipped.append((path, str(error)))
    return None


def load(path: Path) -> Checkpoint:
    """Reads one checkpoint after all its files have been verified, sizes first, then contents.

    Raises only CannotResume (exit 78), for any content of the folder.
    """
    manifest = read_manifest(path)
    check_contents(path, manifest)
    state = from_json(path, STATE, read_small(path, STATE))
    tensors = {group: _tensors(path, name) for group, name in manifest.groups.items()}
    return Checkpoint(path, manifest.step, tensors, state, manifest.about)


@contextmanager
def understood(path: Path) -> Iterator[None]:
    """Converts errors in the use of a checkpoint's content to CannotResume.

    An undamaged checkpoint may be of another version, with other fields.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
        if memory_error(error):
            raise
        detail = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:160]}"
        right = "It was written by another version of multistream, or it is malformed."
        raise CannotResume(str(path), f"it cannot be read ({detail}).", right=right, do="Train again.") from error


def _tensors(path: Path, name: str) -> dict[str, Tensor]:
    """Reads the tensors of a file. safetensors checks its header against the file's size before it creates a tensor."""
    try:
        with safe_open(path / name, framework="pt") as stored:
            # Copies: safetensors' tensors may be in the mapped file, which may be pruned or truncated meanwhile.
            return {key: stored.get_tensor(key).clone() for key in stored.keys()}  # noqa: SIM118  it is not a mapping
    except (SafetensorError, OSError, RuntimeError) as error:
        raise damaged(path, f"{name} cannot be read ({error})") from error
