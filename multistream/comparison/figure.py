"""Figure of a comparison: the compared measure of each row with its interval."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from multistream.bootstrap import Interval
from multistream.comparison.columns import heading, shown
from multistream.comparison.compare import Comparison
from multistream.comparison.run_results import IN_PERCENT, MEASURES

OURS, PUBLISHED = "#20639b", "#8a8a8a"


def draw(comparison: Comparison) -> Figure:
    """Draws a dot and a 95 % interval for each row, from top to bottom, then published numbers (if any) in grey."""
    measured = [(_label(comparison, i), row.score, row.score_ci95) for i, row in enumerate(comparison.rows)]
    published = [(f"{each.name} (published)", each.accuracy, each.accuracy_ci95) for each in comparison.published]
    figure = Figure(figsize=(7.0, 1.2 + 0.32 * (len(measured) + len(published))), layout="constrained")
    axes = figure.subplots()
    scale, unit = (100, ", %") if comparison.measure in IN_PERCENT else (1, "")
    _dots(axes, measured, start=0, color=OURS, scale=scale)
    _dots(axes, published, start=len(measured), color=PUBLISHED, scale=scale)
    axes.axvline(scale * comparison.rows[comparison.reference].score, color=OURS, linewidth=0.8, linestyle=":")
    axes.set_yticks(
        range(len(measured) + len(published)), [label for label, *_ in measured + published], parse_math=False
    )
    axes.invert_yaxis()
    axes.set_xlabel(f"{MEASURES[comparison.measure]} on test photos{unit} (95 % interval)")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    axes.grid(axis="x", linewidth=0.4, alpha=0.5)
    return figure


def _label(comparison: Comparison, index: int) -> str:
    """Returns the settings that identify the row, or its name if they are too long or too many."""
    row = comparison.rows[index]
    if row.name not in row.runs and len(row.runs) == 1:
        return row.name
    settings = [f"{heading(name)} {shown(value)}" for name, value in row.settings.items()]
    text = ", ".join(settings)
    return text if 0 < len(settings) <= 2 and len(text) <= 48 else row.name[-48:]


def _dots(
    axes: Axes, rows: Sequence[tuple[str, float, Interval | None]], *, start: int, color: str, scale: int
) -> None:
    for y, (_, score, interval) in enumerate(rows, start):
        if interval:
            axes.plot([scale * end for end in interval], [y, y], color=color, linewidth=1.6, solid_capstyle="butt")
        axes.plot(scale * score, y, "o", color=color, markersize=5)
