"""Reader of the ablations in a run's folder, for the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from multistream.ablation.results import ACCURACY, METRICS, LeftOut, Metric, PairOfStreams, TapShapley
from multistream.bootstrap import Interval
from multistream.errors import DataError

FOLDER = "ablations"


@dataclass(frozen=True)
class AblationRow:
    """One row of an ablation: a network with its score and cost."""

    name: str
    score: float
    score_ci95: Interval | None
    delta: float | None
    p_value: float | None
    """Corrected by Holm's method if the file has corrected values."""
    masked_score: float | None
    params: float | None
    macs: float | None
    rank: int | None
    """Rank on the Pareto front, 1 for the cheapest; None if not on the front."""


@dataclass(frozen=True)
class AblationFile:
    """The content of one file of RUN/ablations that the page shows."""

    axis: str
    metric: Metric
    about: str
    """The numbers of rows, images, seeds and splits, in words."""
    rows: Sequence[AblationRow]
    holm: bool
    """Whether p-values are corrected for the number of rows."""
    taps: Sequence[TapShapley]
    pairs: Sequence[PairOfStreams]
    leave_one_out: Sequence[LeftOut]


def read_ablations(run: Path) -> list[AblationFile]:
    """Reads RUN/ablations/*.json in the order of their names. Raises DataError for a file that is not an ablation."""
    return [_read(path) for path in sorted((run / FOLDER).glob("*.json"))]


def _read(path: Path) -> AblationFile:
    try:
        return _parsed(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        right = "It must be the output of ablate --json."
        raise DataError(path, f"this is not an ablation ({error!r}).", right=right) from error


def _parsed(content: Mapping[str, Any]) -> AblationFile:
    raw, axis, metric = content["rows"], str(content["axis"]), METRICS[content.get("metric", ACCURACY.name)]
    fusions = {str(row.get("fusion") or "") for row in raw}
    fusion = fusions.pop() if len(fusions) == 1 else ""
    complement = content.get("streams") or {}
    return AblationFile(
        axis=axis,
        metric=metric,
        about=_about(content, fusion),
        rows=_rows(raw, metric, axis=axis, fusion=fusion),
        holm=any(row.get("p_holm") is not None for row in raw),
        taps=list(map(_tap, content.get("shapley", ()))),
        pairs=list(map(_pair, complement.get("pairs", ()))),
        leave_one_out=[_without(each, metric) for each in complement.get("leave_one_out", ())],
    )


def _about(content: Mapping[str, Any], fusion: str) -> str:
    facts = [_count(len(content["rows"]), "row")]
    if "n" in content:
        facts.append(_count(int(content["n"]), "test image"))
    if "seeds" in content and "split_seeds" in content:
        facts += [_count(len(content["seeds"]), "seed"), _count(len(content["split_seeds"]), "split")]
    return ", ".join([*facts, f"{fusion} fusion"] if fusion else facts)


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def _rows(raw: Sequence[Mapping[str, Any]], metric: Metric, *, axis: str, fusion: str) -> list[AblationRow]:
    """Builds rows with their names and their ranks on the Pareto front stored by `ablate`."""
    names = [str(row["label"]).removesuffix(f"; {fusion}") for row in raw]
    shown = without_common_streams(names) if axis in ("depth", "taps") else names
    ranks, column = _ranks(raw, metric), metric.column
    rows = []
    for i, (row, name) in enumerate(zip(raw, shown, strict=True)):
        p_value = _number(row, "p_holm")
        ends = row.get(column("score_ci95"))
        rows.append(
            AblationRow(
                name=name,
                score=_finite(row[column("score")]),
                score_ci95=(_finite(ends[0]), _finite(ends[1])) if ends else None,
                delta=_number(row, "delta"),
                p_value=_number(row, "p_value") if p_value is None else p_value,
                masked_score=_number(row, column("masked_score")),
                params=_number(row, "params"),
                macs=_number(row, "macs"),
                rank=ranks.get(i),
            )
        )
    return rows


def _ranks(raw: Sequence[Mapping[str, Any]], metric: Metric) -> dict[int, int]:
    """Returns {row: rank on the Pareto front}, 1 for the cheapest."""
    front = [i for i, row in enumerate(raw) if row["pareto"]]
    ordered = sorted(front, key=lambda i: (_finite(raw[i]["macs"]), _finite(raw[i][metric.name])))
    return {i: rank for rank, i in enumerate(ordered, start=1)}


def _number(row: Mapping[str, Any], name: str) -> float | None:
    return None if row.get(name) is None else _finite(row[name])


def _finite(value: Any) -> float:
    number = float(value)
    if not isfinite(number):
        raise ValueError(f"{number} is not finite")
    return number


def _tap(row: Mapping[str, Any]) -> TapShapley:
    return TapShapley(str(row["stream"]), str(row["stage"]), _finite(row["value"]), _number(row, "deviation"))


def _pair(row: Mapping[str, Any]) -> PairOfStreams:
    numbers = (_finite(row[name]) for name in ("disagreement", "double_fault", "oracle"))
    return PairOfStreams(str(row["first"]), str(row["second"]), *numbers)


def _without(row: Mapping[str, Any], metric: Metric) -> LeftOut:
    return LeftOut(str(row["fusion"]), str(row["stream"]), _finite(row[metric.name]), _finite(row["delta"]))


def without_common_streams(names: Sequence[str]) -> list[str]:
    """Removes from the names of rows the streams that all rows keep completely.

    >>> without_common_streams(["anp", "object a, anp", "object a + b, anp"])
    ['anp alone', 'object a', 'object a + b']
    """
    parts = [name.split(", ") for name in names]
    common = set.intersection(*map(set, parts)) if parts else set()
    short = [", ".join(part for part in each if part not in common) for each in parts]
    return [left or f"{name} alone" for left, name in zip(short, names, strict=True)]
