"""The paper's results from the shipped file paper.toml: rows of table 1, curves of figure 4, recalls of figure 3."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class PaperRow:
    """A row of table 1: a single stream, or the fusion of other rows' branches; accuracies are in percent, on FI."""

    key: str
    name: str
    published: float | None
    """None if no comparable number was published."""
    streams: tuple[str, ...] = ()
    temporal: str = "concat"
    fusion: str = ""
    branches: tuple[str, ...] = ()
    """The keys of the single-stream rows whose branches it fuses."""


@dataclass(frozen=True)
class PaperCurve:
    """A curve of figure 4: the truncated row, and the published accuracies of 1 to n stages in percent."""

    row: str
    name: str
    published: tuple[float, ...]


@dataclass(frozen=True)
class Paper:
    """The paper's rows by key, its curves, and its recalls by class."""

    rows: Mapping[str, PaperRow]
    curves: tuple[PaperCurve, ...]
    recalls: Mapping[str, float]

    def streams_of(self, row: PaperRow) -> tuple[str, ...]:
        """Returns the keys (object, places, anp) of the streams that a row needs."""
        return row.streams or tuple(dict.fromkeys(s for key in row.branches for s in self.rows[key].streams))

    def for_label_sets(self) -> Paper:
        """Returns the rows and curves for photos that may have several labels.

        Late fusion is left out, because it gives each photo one label, and published numbers, because they are
        accuracies.
        """
        rows = {key: replace(row, published=None) for key, row in self.rows.items() if row.fusion != "late"}
        return Paper(rows, tuple(replace(curve, published=()) for curve in self.curves), {})


@cache
def the_paper() -> Paper:
    """Reads the paper's results from the shipped file."""
    text = files("multistream.reproduction").joinpath("paper.toml").read_text(encoding="utf-8")
    content = tomllib.loads(text)
    rows = {row["key"]: PaperRow(**_with_tuples(row)) for row in content["row"]}
    curves = tuple(PaperCurve(**_with_tuples(curve)) for curve in content["curve"])
    return Paper(rows, curves, content["recalls"])


def _with_tuples(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}
