"""An ablation as files: JSON, CSV, and its place in the run."""

from __future__ import annotations

import csv
import io
import itertools
import json
from pathlib import Path

from multistream.ablation.results import Ablation, Row
from multistream.files import write_atomic

COLUMNS = (
    "keep",
    "fusion",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "delta",
    "p_value",
    "p_holm",
    "masked_accuracy",
    "ridge_accuracy",
    "params",
    "macs",
    "ms_p50",
    "pareto",
)


def keep_result(result: Ablation, folder: Path, *, cut: str = "") -> Path:
    """Writes the result as JSON and CSV below `folder`, under the next free name; returns the JSON's path."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{result.axis}-{cut}" if cut else result.axis
    free = (folder / f"{name}-{n}.json" for n in itertools.count(1))
    path = next(path for path in free if not path.exists())
    write_atomic(path, json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n")
    write_csv(result, path.with_suffix(".csv"))
    return path


def write_csv(result: Ablation, path: Path) -> None:
    """Writes the rows as CSV; then a column for each class, with the accuracy on it."""
    classes = list(result.whole.per_class)
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([*COLUMNS, *(f"accuracy_{name}" for name in classes)])
    for row in result.rows:
        lines.writerow([*_cells(row), *(row.per_class[name]["accuracy"] for name in classes)])
    write_atomic(path.expanduser(), text.getvalue())


def _cells(row: Row) -> list[object]:
    keep = " ".join(f"{key}:{'+'.join(stages)}" for key, stages in row.keep.items())
    low, high = row.accuracy_ci95
    found = {**vars(row), "keep": keep, "accuracy_low": low, "accuracy_high": high, "pareto": int(row.pareto)}
    return ["" if found[name] is None else found[name] for name in COLUMNS]
