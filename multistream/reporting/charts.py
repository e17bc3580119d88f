"""The page's figures, each with its numbers as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from multistream.inference.metrics import Metrics
from multistream.reporting.dots import Entry, dot_plot
from multistream.reporting.figures import Axis, Plot, axis, drawing, figure
from multistream.reporting.markup import Safe, details, interval, pair, percent, signed, table, tag
from multistream.reporting.results import Bin, Line

LARGEST = 40
"""Classes of the largest confusion matrix that is shown whole."""
CURVES = {"train": "training", "val": "validation"}
SHARES = Axis("", 0, 1, (0, 0.25, 0.5, 0.75, 1), lambda value: f"{100 * value:g}")


def comparison(found: Sequence[Line]) -> Safe:
    """The run, its streams and the majority, as dots on one scale."""
    scale = Axis("accuracy on the test part, %", 0, 1, SHARES.ticks, SHARES.write)
    entries = [
        Entry(line.name, line.accuracy, line.ci95, "first" if line.p_value is None else "second") for line in found
    ]
    label = "Accuracy: " + "; ".join(f"{line.name} {percent(line.accuracy)}" for line in found)
    plot = dot_plot(entries, scale=scale, label=label, write=percent)
    rows = [
        [
            line.name,
            percent(line.accuracy),
            interval(line.ci95),
            "" if line.difference is None else signed(100 * line.difference, 1),
            "" if line.p_value is None else p_value(line.p_value),
        ]
        for line in found
    ]
    head = ["classifier", "accuracy", "95 % interval", "lead", "p"]
    caption = (
        f"Dots are accuracies on the same {found[0].n:,} photos, lines their 95 % intervals (Wilson). Lead: by how "
        "many points this run is ahead. p: how often chance alone would part the two as far (exact McNemar test)."
    )
    return pair(figure(plot, caption=caption), table(head, rows, kind="tight"))


def p_value(p: float) -> str:
    """A p value as papers print it.

    >>> p_value(0.0386), p_value(1e-9)
    ('0.039', '< 0.001')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def confusion(metrics: Metrics) -> Safe:
    """The confusion matrix, a table that is shaded by the share of its row."""
    if len(metrics.classes) > LARGEST:
        return _confused(metrics)
    head = tag("tr", tag("td", "label", attributes={"class": "corner"}), *(_column(name) for name in metrics.classes))
    rows = []
    for name, counts in zip(metrics.classes, metrics.confusion, strict=True):
        total = sum(counts) or 1
        cells = [
            tag(
                "td",
                f"{n:,}" if n else "·",
                attributes={"class": f"s{round(8 * n / total)}", "title": percent(n / total)},
            )
            for n in counts
        ]
        rows.append(tag("tr", tag("th", name, attributes={"scope": "row", "class": "word"}), *cells))
    inner = [
        tag("caption", "Rows: the label. Columns: what the run said. Shade: share of the row."),
        tag("thead", head),
    ]
    body = tag("table", *inner, tag("tbody", *rows), attributes={"class": "matrix"})
    region = {"class": "wide", "tabindex": "0", "role": "region", "aria-label": "Table: confusion matrix"}
    return tag("div", body, attributes=region)


def _confused(metrics: Metrics) -> Safe:
    """The most frequent mistakes, where the whole matrix would be too large to read."""
    cells = [
        (n, label, said)
        for label, counts in zip(metrics.classes, metrics.confusion, strict=True)
        for said, n in zip(metrics.classes, counts, strict=True)
        if n and said != label
    ]
    rows = [[label, said, f"{n:,}"] for n, label, said in sorted(cells, key=lambda cell: (-cell[0], cell[1:]))[:30]]
    return table(["label", "what the run said", "photos"], rows, words=2, caption="The 30 most frequent mistakes")


def _column(name: str) -> Safe:
    return tag("th", tag("span", name), attributes={"scope": "col", "class": "turned"})


def calibration(bins: Sequence[Bin]) -> Safe:
    """The reliability diagram."""
    plot = Plot(
        Axis("confidence, %", 0, 1, SHARES.ticks, SHARES.write), Axis("right, %", 0, 1, SHARES.ticks, SHARES.write)
    )
    most = max(each.n for each in bins)
    marks = [
        plot.frame(),
        plot.line([(0, 0), (1, 1)], "rule"),
        plot.line([(b.confidence, b.accuracy) for b in bins], "first"),
    ]
    for b in bins:
        marks.append(plot.bar(b.confidence, *b.ci95, "thin"))
        told = f"{b.n:,} photos, confidence {percent(b.confidence)}, right {percent(b.accuracy)}"
        marks.append(plot.dot((b.confidence, b.accuracy), "first", title=told, radius=2.5 + 4 * (b.n / most) ** 0.5))
    label = "Reliability diagram: " + "; ".join(
        f"{percent(b.confidence, 0)} sure, {percent(b.accuracy, 0)} right" for b in bins
    )
    rows = [
        [
            f"{percent(b.low, 0)} to {percent(b.high, 0)}",
            f"{b.n:,}",
            percent(b.confidence),
            percent(b.accuracy),
            interval(b.ci95),
        ]
        for b in bins
    ]
    numbers = details("Numbers", table(["confidence", "photos", "mean confidence", "right", "95 % interval"], rows))
    caption = (
        "How sure the run is against how often it is right. On the dashed line both agree; larger dots are more photos."
    )
    return figure(drawing(*marks, label=label), caption=caption, numbers=numbers)


def learning(epochs: Sequence[Mapping[str, float]], *, best: int | None) -> Safe:
    """Losses and the validation accuracy, epoch by epoch."""
    counted = [int(line["epoch"]) + 1 for line in epochs]
    x = axis("epoch", [1, *counted], write=lambda value: f"{value:g}" if float(value).is_integer() else "")
    losses = {name: [line.get(f"{name}_loss") for line in epochs] for name in ("train", "val")}
    known = [value for values in losses.values() for value in values if value is not None]
    drawings = []
    if known:
        plot = Plot(x, axis("loss", known, zero=True))
        drawings.append(_curves(plot, counted, losses, best, "Losses"))
    shares = [line.get("val_accuracy") for line in epochs]
    if any(value is not None for value in shares):
        plot = Plot(x, Axis("validation accuracy, %", 0, 1, SHARES.ticks, SHARES.write))
        drawings.append(_curves(plot, counted, {"val": shares}, best, "Validation accuracy"))
    rows = [
        [str(n), *(_number(line.get(key)) for key in ("train_loss", "val_loss", "val_accuracy", "learning_rate"))]
        for n, line in zip(counted, epochs, strict=True)
    ]
    head = ["epoch", "training loss", "validation loss", "validation accuracy", "learning rate"]
    mark = f" The dashed line marks epoch {best}, which was kept." if best else ""
    return figure(*drawings, caption=f"Learning curves.{mark}", numbers=details("Numbers", table(head, rows)))


def _curves(
    plot: Plot, epochs: Sequence[int], curves: Mapping[str, Sequence[float | None]], best: int | None, name: str
) -> Safe:
    marks = [plot.frame()]
    if best:
        marks.append(plot.bar(best, plot.y.low, plot.y.high, "rule"))
    for curve, values in curves.items():
        points = [(float(n), v) for n, v in zip(epochs, values, strict=True) if v is not None]
        marks.append(plot.line(points, "second" if curve == "train" else "first"))
        marks += [
            plot.dot(point, "first", title=f"epoch {point[0]:g}: {point[1]:.4g}", radius=2.2)
            for point in points
            if curve == "val"
        ]
    last = {CURVES[c]: next((v for v in reversed(values) if v is not None), None) for c, values in curves.items()}
    ends = {name: value for name, value in last.items() if value is not None}
    if len(curves) > 1:
        marks += _named(plot, epochs[-1], ends)
    told = ", ".join(f"{curve} ends at {value:.3f}" for curve, value in ends.items())
    return drawing(*marks, label=f"{name} over {len(epochs)} epochs: {told}")


def _named(plot: Plot, epoch: int, ends: Mapping[str, float]) -> list[Safe]:
    """Each curve's name at its end, the higher one's above and the lower one's below."""
    top = max(ends.values())
    return [
        plot.text((epoch, value), name, "name", dy=-9 if value == top else 18, end=True) for name, value in ends.items()
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
