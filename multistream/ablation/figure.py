"""An ablation as a figure: accuracy against multiply-adds, with the line that no row lies above."""

from __future__ import annotations

from matplotlib.figure import Figure

from multistream.ablation.results import Ablation

OURS, BEST = "#8a8a8a", "#20639b"
MOST_NAMED = 12


def draw(result: Ablation) -> Figure:
    """A dot with its 95 % interval for each row; the Pareto line through those that no other beats."""
    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = figure.subplots()
    few = len(result.rows) <= MOST_NAMED
    for row in result.rows:
        x, color = row.macs / 1e6, BEST if row.pareto else OURS
        axes.plot([x, x], [100 * end for end in row.accuracy_ci95], color=color, linewidth=1.0, alpha=0.6)
        axes.plot(x, 100 * row.accuracy, "o", color=color, markersize=5)
        if few or row.pareto:
            axes.annotate(
                row.label,
                (x, 100 * row.accuracy),
                xytext=(5, 4),
                textcoords="offset points",
                fontsize=7,
                parse_math=False,
            )
    best = sorted((row.macs / 1e6, 100 * row.accuracy) for row in result.rows if row.pareto)
    axes.step([x for x, _ in best], [y for _, y in best], where="post", color=BEST, linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.set_xlabel("multiply-adds of one image, millions")
    axes.set_ylabel("accuracy on test photos, % (95 % interval)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(linewidth=0.4, alpha=0.5)
    return figure
