"""Figure 4 of the paper: accuracy (or mAP) against the number of kept stages, with all streams in one figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from multistream.comparison.run_results import MEASURES
from multistream.reproduction.results import ReproducedCurve

COLORS = ("#20639b", "#c0561e", "#3c8c40", "#7a4f9a")


def draw_truncation(curves: Sequence[ReproducedCurve]) -> Figure:
    """Draws the scores of GAP 1 to GAP 1-n with 95 % intervals; the published accuracies on FI are dashed."""
    figure = Figure(figsize=(4.8, 3.6), layout="constrained")
    axes = figure.subplots()
    for curve, color in zip(curves, COLORS, strict=False):
        places = np.arange(len(curve.scores)) + 1
        ours, (low, high) = 100 * np.array(curve.scores), 100 * np.array(curve.intervals).T
        errors = [ours - low, high - ours]
        axes.errorbar(places, ours, yerr=errors, color=color, marker="o", markersize=4, capsize=2, label=curve.name)
        if len(curve.published) == len(places):
            published, label = 100 * np.array(curve.published), f"{curve.name}, published on FI"
            axes.plot(places, published, color=color, linestyle="--", linewidth=0.9, label=label)
    most = max(len(curve.scores) for curve in curves)
    axes.set_xticks(range(1, most + 1), [f"1-{n}" if n > 1 else "1" for n in range(1, most + 1)])
    axes.set_xlabel("stages with a tap (GAP)")
    axes.set_ylabel(f"{MEASURES[curves[0].measure]}, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)
    axes.legend(frameon=False, fontsize=8)
    return figure
