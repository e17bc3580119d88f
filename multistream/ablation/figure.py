"""Figure of an ablation: the score against multiply-adds, with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from multistream.ablation.results import Ablation, VariantResult

OURS, BEST = "#8a8a8a", "#20639b"
MOST_NAMED = 16
"""If there are more rows, only those on the Pareto front and the complete network have a number and a name."""
NEAR = 0.025
"""Dots closer than this fraction of both axes share one label."""

RIGHT = 0.8
"""Beyond this fraction of the axis, numbers are on the left of their dots."""


def draw(result: Ablation) -> Figure:
    """Draws each row as a dot with its 95 % interval, numbered by cost, with names and the Pareto front."""
    figure = Figure(figsize=(8.5, 4.5), layout="constrained")
    axes = figure.subplots()
    rows = sorted(result.rows, key=lambda row: (row.macs, row.score))
    for row in rows:
        color = BEST if row.pareto else OURS
        axes.plot([_x(row)] * 2, [100 * end for end in row.score_ci95], color=color, linewidth=1.0, alpha=0.6)
        axes.plot(_x(row), _y(row), "o", color=color, markersize=5)
    best = sorted((_x(row), _y(row)) for row in rows if row.pareto)
    axes.step(*zip(*best, strict=True), where="post", color=BEST, linewidth=0.8, linestyle=":")
    _scale(axes, rows)
    few = len(rows) <= MOST_NAMED
    named = [row for row in rows if few or row.pareto or row is result.whole]
    _number(axes, named)
    _name(axes, named, result.whole)
    axes.set_xlabel("multiply-adds of one image, millions")
    axes.set_ylabel(f"{result.metric.title} on test photos, % (95 % interval)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(linewidth=0.4, alpha=0.5)
    return figure


def _x(row: VariantResult) -> float:
    return max(row.macs, 1) / 1e6


def _y(row: VariantResult) -> float:
    return 100 * row.score


def _scale(axes: Axes, rows: Sequence[VariantResult]) -> None:
    """Sets ticks and limits of both axes."""
    decades = log10(_x(rows[-1]) / _x(rows[0]))
    log_scale(axes, decades)
    lowest = min(100 * row.score_ci95[0] for row in rows)
    highest = max(100 * row.score_ci95[1] for row in rows)
    room = max(2.5, 0.08 * (highest - lowest))
    axes.set_ylim(max(-1.0, lowest - room), min(101.0, highest + room))
    axes.set_xlim(_x(rows[0]) / 10 ** (0.05 * decades + 0.03), _x(rows[-1]) * 10 ** (0.1 * decades + 0.05))


def log_scale(axes: Axes, decades: float) -> None:
    """Sets a logarithmic x axis with ticks at powers of ten (or at 1, 2, 5 times them if the values span few)."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0,) if decades > 2 else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _number(axes: Axes, named: Sequence[VariantResult]) -> None:
    """Writes numbers next to the dots; dots that nearly coincide share one label."""
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    dots: dict[tuple[float, float], tuple[VariantResult, list[str]]] = {}
    for number, row in enumerate(named, start=1):
        place = log10(_x(row) / left) / log10(right / left), (_y(row) - bottom) / (top - bottom)
        near = next((other for other in dots if max(abs(np.subtract(other, place))) < NEAR), place)
        dots.setdefault(near, (row, []))[1].append(str(number))
    for (across, _), (row, numbers) in dots.items():
        offset, side = ((-5, 4), "right") if across > RIGHT else ((5, 4), "left")  # away from the names
        place = _x(row), _y(row)
        axes.annotate(", ".join(numbers), place, xytext=offset, textcoords="offset points", ha=side, fontsize=7)


def _name(axes: Axes, named: Sequence[VariantResult], whole: VariantResult) -> None:
    """Writes the names of the numbered rows next to the axes."""
    handles = []
    for number, row in enumerate(named, start=1):
        name = f"{number}  {row.label}" + (" (all)" if row is whole else "")
        color = BEST if row.pareto else OURS
        handles.append(Line2D([], [], marker="o", linestyle="", markersize=4, color=color, label=name))
    legend = axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=7)
    for text in legend.get_texts():
        text.set_parse_math(False)
