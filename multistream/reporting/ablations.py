"""The ablations that lie in a run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multistream.errors import DataError
from multistream.interfaces import VECTOR

FOLDER = "ablations"


@dataclass(frozen=True)
class Ablation:
    """One file of a run's ablations: rows as `ablate --json` prints them, and `whole`, all that it prints."""

    file: str
    axis: str
    rows: Sequence[Mapping[str, Any]]
    whole: Mapping[str, Any]


def read_ablations(run: Path) -> list[Ablation]:
    """RUN/ablations/*.json in the order of their names; DataError for one that is no ablation."""
    found = []
    for path in sorted((run / FOLDER).glob("*.json")):
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
            rows = [{**row, "accuracy": float(row["accuracy"]), "keep": kept(row["keep"])} for row in read["rows"]]
            found.append(Ablation(path.name, str(read["axis"]), rows, read))
        except (ValueError, KeyError, TypeError) as error:
            right = "It must be what ablate --json prints."
            raise DataError(str(path), f"this is no ablation ({error!r}).", right=right) from error
    return found


def kept(what: Any) -> str:
    """What a row kept, in words.

    >>> kept({"object": ["stem", "mid"], "anp": ["vector"]}), kept({"object": 3}), kept(["object", "anp"])
    ('object stem + mid, anp', 'object 3', 'object + anp')
    """
    if isinstance(what, Mapping):
        return ", ".join(key if value == [VECTOR] else f"{key} {kept(value)}" for key, value in what.items())
    return " + ".join(map(str, what)) if isinstance(what, list) else str(what)


def in_short(names: Sequence[str]) -> list[str]:
    """Names of rows of one stream's depths or taps, without the streams that all of them keep whole.

    >>> in_short(["anp", "object a, anp", "object a + b, anp"])
    ['anp alone', 'object a', 'object a + b']
    """
    split = [name.split(", ") for name in names]
    common = set.intersection(*map(set, split)) if split else set()
    short = [", ".join(part for part in parts if part not in common) for parts in split]
    return [left or f"{name} alone" for left, name in zip(short, names, strict=True)]


def pareto(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """The rows that no other beats in accuracy at as few multiply-adds, cheapest first."""
    order = sorted(
        (i for i, row in enumerate(rows) if row.get("macs") is not None),
        key=lambda i: (rows[i]["macs"], -rows[i]["accuracy"]),
    )
    front: list[int] = []
    for i in order:
        if not front or rows[i]["accuracy"] > rows[front[-1]]["accuracy"]:
            front.append(i)
    return front
