"""Run folders: their names, their files, and reading a run's own data."""

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
"""The folder with the run of each fold, in a run with folds."""
PROBE = "probe"
"""The folder with the linear probe of a fine-tuned run; the probe is a run too."""


def new_run(out: str | Path | None, recipe: Recipe) -> Path:
    """Creates a run's folder: `out`, which must be empty or not exist, or the next free `runs/KEYS-FUSION-N`."""
    if out is None:
        return make_folder(_free_folder(recipe))
    check_unused(out)
    return make_folder(Path(out).expanduser())


def check_unused(out: str | Path) -> None:
    """Raises UsageError if the folder is not empty and therefore cannot be that of a new run."""
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
    """Returns the first of these paths that does not exist."""
    return next(path for path in paths if not path.exists())


def folder_of(run: Path) -> Path:
    """Returns a run's folder, given the folder or its model file."""
    return run.parent if run.is_file() else run


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Writes a JSON object, atomically."""
    write_atomic(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def read_summary(run: Path) -> dict[str, Any]:
    """Reads a finished run's summary.json. Raises DataError if it is damaged."""
    path = run / SUMMARY
    if not path.is_file():
        what, right = f"it has no {SUMMARY}.", "Every finished run has one."
        raise UsageError(run, what, right=right, do="Resume it, or train it.")
    return json_object(_checked(path), where=str(path))


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Appends one JSON object to a .jsonl file. Raises DiskFull (exit 74) if the disk refuses."""
    with writing(path.parent), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Rewrites a .jsonl file atomically: a resumed run restores the lines of earlier epochs from its checkpoint."""
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Reads the objects of a .jsonl file, each with its `epoch`; drops a last line that a crash has truncated.

    Other damage is a DataError with the line number, because a shorter curve would be another result.
    """
    content = _checked(path)
    whole, newline, _ = content.rpartition(b"\n")  # the text after the last line end is truncated
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
