"""Run folders: their names, what lies in them, and reading a run's own data back."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multistream.errors import UsageError
from multistream.files import LOCK, write_atomic, writing
from multistream.recipe import Recipe

RECIPE = "recipe.toml"
SUMMARY = "summary.json"
METRICS = "metrics.jsonl"
PREDICTIONS = "predictions.csv"
SPLIT = "split.csv"
CHECKPOINTS = "checkpoints"


def new_run(out: str | Path | None, recipe: Recipe) -> Path:
    """The folder of a new run: `out`, which must be empty or not exist, or the next free `runs/KEYS-FUSION-N`."""
    if out is None:
        keys = list(recipe.network.streams)
        name = "-".join([*keys, recipe.network.fusion.partition(":")[0]] if len(keys) > 1 else keys)
        free = (Path("runs") / f"{name}-{n}" for n in itertools.count(1))
        folder = next(path for path in free if not path.exists())
    else:
        folder = Path(out).expanduser()
        if folder.exists() and (not folder.is_dir() or any(path.name != LOCK for path in folder.iterdir())):
            right = "A run needs a new or empty folder."
            raise UsageError(
                "--out", f"{folder} is not empty.", right=right, do=f"To go on with it: --resume {folder}."
            )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Writes a JSON object, atomically."""
    write_atomic(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def read_summary(run: Path) -> dict[str, Any]:
    """A finished run's summary.json."""
    path = run / SUMMARY
    if not path.is_file():
        raise UsageError(str(run), f"no {SUMMARY} is there.", right="A finished run has one.", do="Resume or train it.")
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return summary


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Appends one JSON object to a .jsonl file; DiskFull (exit 74) where the disk refuses."""
    with writing(path.parent), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def keep_lines(path: Path, *, before_epoch: int) -> None:
    """Drops from a .jsonl what a run that is resumed in this epoch will tell again, and a line that a crash cut off."""
    if not path.exists():
        return
    kept = [line for line in read_lines(path) if line["epoch"] < before_epoch]
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; a last line that a crash cut off is dropped."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break  # only the last line can be cut: what follows a cut was never written
    return lines
