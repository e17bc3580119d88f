"""Figure of a profile: the time of each part, and its lower bound by the roofline."""

from __future__ import annotations

from matplotlib.figure import Figure

from multistream.profiling.results import Profile

TAKEN, LEAST = "#c9d6e2", "#20639b"


def draw(found: Profile) -> Figure:
    """Draws a bar of milliseconds for each part, in the order of computation; the darker bar is the lower bound."""
    names = [f"{row.stream} {row.stage}".strip() for row in found.rows]
    places = range(len(names))
    figure = Figure(figsize=(7.0, 0.9 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots()
    taken = axes.barh(places, [row.ms_p50 for row in found.rows], color=TAKEN, label="median of the calls")
    axes.barh(places, [row.ms_roofline for row in found.rows], color=LEAST, height=0.4, label="lower bound (roofline)")
    axes.bar_label(taken, [f"{row.macs / 1e6:,.1f} M" if row.macs else "" for row in found.rows], padding=3, fontsize=7)
    axes.set_yticks(places, names, parse_math=False)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel(
        f"milliseconds at batch {found.batch} on {found.runtime}; next to the bars, multiply-adds of one image"
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="best")
    return figure
