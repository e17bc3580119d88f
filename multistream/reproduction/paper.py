"""What the paper reports, as the shipped file paper.toml has it: rows of table 1, curves of figure 4, recalls."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class PaperRow:
    """A row of table 1: a stream alone, or the fusion of other rows' branches; accuracies in percent, on FI."""

    key: str
    name: str
    published: float | None
    """None where nothing was published that compares."""
    streams: tuple[str, ...] = ()
    temporal: str = "concat"
    fusion: str = ""
    branches: tuple[str, ...] = ()
    """Keys of the single-stream rows whose branches it joins."""


@dataclass(frozen=True)
class PaperCurve:
    """A curve of figure 4: the row that it truncates, and the published accuracies of 1 to n stages in percent."""

    row: str
    name: str
    published: tuple[float, ...]


@dataclass(frozen=True)
class Paper:
    """All of it."""

    rows: Mapping[str, PaperRow]
    curves: tuple[PaperCurve, ...]
    recalls: Mapping[str, float]

    def streams_of(self, row: PaperRow) -> tuple[str, ...]:
        """The places (object, places, anp) that a row needs."""
        return row.streams or tuple(dict.fromkeys(s for key in row.branches for s in self.rows[key].streams))

    def for_label_sets(self) -> Paper:
        """The same for photos that may have several labels: without late fusion, which gives each photo one label, and
        without the published numbers, which are accuracies.
        """
        rows = {key: replace(row, published=None) for key, row in self.rows.items() if row.fusion != "late"}
        return Paper(rows, tuple(replace(curve, published=()) for curve in self.curves), {})


@cache
def the_paper() -> Paper:
    """Reads the shipped file."""
    text = files("multistream.reproduction").joinpath("paper.toml").read_text(encoding="utf-8")
    found = tomllib.loads(text)
    rows = {row["key"]: PaperRow(**_with_tuples(row)) for row in found["row"]}
    curves = tuple(PaperCurve(**_with_tuples(curve)) for curve in found["curve"])
    return Paper(rows, curves, found["recalls"])


def _with_tuples(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}
