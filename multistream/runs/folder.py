"""Run folders: their names, what is in them, and reading a run's own data back."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from multistream.checksums import check_checksum
from multistream.commands import quoted
from multistream.errors import DataError, UsageError
from multistream.files import json_object, make_folder, write_atomic, writing
from multistream.folder_lock import LOCK
from multistream.recipe import Recipe
from multistream.system_errors import reason

RECIPE = "recipe.toml"
SUMMARY = "summary.json"
METRICS = "metrics.jsonl"
PREDICTIONS = "predictions.csv"
SPLIT = "split.csv"
CHECKPOINTS = "checkpoints"
FOLDS = "folds"
"""Where a run on folds keeps the run of each fold."""
PROBE = "probe"
"""Where a fine-tuned run keeps its linear probe, a run itself."""


def new_run(out: str | Path | None, recipe: Recipe) -> Path:
    """The folder of a new run: `out`, which must be empty or not exist, or the next free `runs/KEYS-FUSION-N`."""
    if out is None:
        return make_folder(_free_folder(recipe))
    check_unused(out)
    return make_folder(Path(out).expanduser())


def check_unused(out: str | Path) -> None:
    """UsageError for a folder that a new run cannot have: one that is not empty."""
    folder = Path(out).expanduser()
    with writing(folder):
        is_used = os.path.lexists(folder) and (not folder.is_dir() or any(p.name != LOCK for p in folder.iterdir()))
    if is_used:
        right = "A run needs a new or empty folder."
        raise UsageError(
            "--out", f"{folder} is not empty.", right=right, do=f"To continue it: {quoted('--resume', folder)}."
        )


def _free_folder(recipe: Recipe) -> Path:
    names = list(recipe.network.streams)
    if len(names) > 1:
        names.append(recipe.network.fusion.partition(":")[0])
    free = (Path("runs") / f"{'-'.join(names)}-{n}" for n in itertools.count(1))
    return first_free(free)


def first_free(paths: Iterable[Path]) -> Path:
    """The first of these paths at which nothing lies."""
    return next(path for path in paths if not path.exists())


def folder_of(run: Path) -> Path:
    """A run's folder, given itself or its model file."""
    return run.parent if run.is_file() else run


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Writes a JSON object, atomically."""
    write_atomic(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def read_summary(run: Path) -> dict[str, Any]:
    """A finished run's summary.json; DataError where it is damaged."""
    path = run / SUMMARY
    if not path.is_file():
        what, right = f"it has no {SUMMARY}.", "Every finished run has one."
        raise UsageError(run, what, right=right, do="Resume it, or train it.")
    return json_object(_checked(path), where=str(path))


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Appends one JSON object to a .jsonl file; DiskFull (exit 74) where the disk refuses."""
    with writing(path.parent), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Writes a .jsonl file again, atomically: what a resumed run's checkpoint holds of the epochs before."""
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file, each with its `epoch`; a last line that a crash cut off is dropped.

    Any other damage is a DataError with the line, for a shorter curve would be another result.
    """
    content = _checked(path)
    whole, newline, _ = content.rpartition(b"\n")  # what follows the last line end was cut off
    lines = []
    for number, text in enumerate(whole.split(b"\n") if newline else (), 1):
        line = json_object(text, where=f"{path}:{number}")
        if not isinstance(line.get("epoch"), int) or isinstance(line["epoch"], bool):
            raise DataError(f"{path}:{number}", "it is damaged: it has no epoch.", do="Restore the file.")
        lines.append(line)
    return lines


def _checked(path: Path) -> bytes:
    check_checksum(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(path, f"it cannot be read: {reason(error)}.", do="Restore it.") from error
