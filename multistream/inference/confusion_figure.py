"""Draws a confusion matrix as a figure (paper fig. 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

DARK = 0.55
"""Above this fraction of a row, a cell is dark and its text is white."""


def draw_confusion(
    counts: Sequence[Sequence[int]],
    classes: Sequence[str],
    *,
    totals: Sequence[Sequence[int]] | None = None,
    published_recalls: Mapping[str, float] | None = None,
    predicted: str = "predicted",
) -> Figure:
    """Draws each label as a row; a cell shows the fraction of the row's photos with that prediction, labels show n.

    `totals` are the denominators of the cells, by default the sums of their rows. `published_recalls` are printed below
    the fractions on the diagonal; `predicted` is the label of the column axis.
    """
    recalls = published_recalls or {}
    table = np.array(counts, dtype=np.float64)
    among = np.broadcast_to(table.sum(axis=1, keepdims=True) if totals is None else np.array(totals), table.shape)
    fractions = np.divide(table, among, out=np.zeros_like(table), where=among > 0)
    side = 1.6 + 0.62 * len(classes)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    published = {(i, i): f"\n({recalls[name]:.2f})" for i, name in enumerate(classes) if name in recalls}
    for (i, j), value in np.ndenumerate(fractions):
        text, color = f"{value:.2f}{published.get((i, j), '')}", "white" if value > DARK else "black"
        axes.text(j, i, text, ha="center", va="center", color=color, fontsize=8)
    places = range(len(classes))
    labels = [f"{name} ({int(n):,})" for name, n in zip(classes, among.diagonal(), strict=True)]
    axes.set_yticks(places, labels, parse_math=False)
    axes.set_xticks(places, list(classes), rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_xlabel(predicted)
    axes.set_ylabel("label (photos)")
    if published_recalls:
        axes.set_title("in brackets: published on FI", fontsize=8)
    return figure
