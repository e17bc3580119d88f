"""The charts of the page: matplotlib figures as inline SVG, in the colours of the style sheet."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log10
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from multistream.ablation.figure import log_scale
from multistream.bootstrap import Interval
from multistream.errors import printable
from multistream.reporting.results import CalibrationBin

PRIMARY, SECONDARY, GRID, TEXT, LABEL = "#b4450b", "#6b7684", "#d9dde2", "#1c1f23", "#5c646e"
VARIABLES = {PRIMARY: "primary", SECONDARY: "secondary", GRID: "line", TEXT: "ink", LABEL: "soft"}
"""The style sheet's variables that replace these colours: the page has a light and a dark scheme."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # keeps text searchable, selectable and accessible
    "svg.hashsalt": "multistream",  # the same figure gives the same bytes
    "text.parse_math": False,  # a class may be called $x$
    "font.size": 11,
    "text.color": TEXT,
    "axes.labelcolor": LABEL,
    "axes.grid": True,
    "axes.axisbelow": True,
    **{f"axes.spines.{side}": False for side in ("left", "bottom", "top", "right")},
    "grid.color": GRID,
    "xtick.color": LABEL,
    "ytick.color": LABEL,
    **dict.fromkeys(("xtick.major.size", "ytick.major.size", "xtick.minor.size"), 0),
}
WIDTH, HEIGHT = 5.0, 3.6
"""The size in inches (72 SVG units each); the style sheet scales a chart to its column."""
TOOLTIP = "tooltip:"
XLINK = "{http://www.w3.org/1999/xlink}href"
LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
LONGEST_NAME = 24
LABELLED_ROWS = 12
"""The largest number of rows with intervals in a scatter plot; more would overlap."""


@dataclass(frozen=True)
class ChartRow:
    """A named value with its interval."""

    name: str
    value: float
    interval: Interval | None = None
    highlighted: bool = True


def dot_chart(
    rows: Sequence[ChartRow],
    *,
    title: str,
    xlabel: str,
    write: Callable[[float], str],
    limits: Interval | None = None,
    reference: float | None = None,
) -> Markup:
    """Draws a dot with its interval for each row, the name on the left and the value on the right."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.6 + 0.36 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for y, row in enumerate(rows):
            _dot(axes, y, row)
            axes.text(1.03, y, write(row.value), transform=axes.get_yaxis_transform(), va="center")
        if reference is not None:
            axes.axvline(reference, color=LABEL, linewidth=1, linestyle=(0, (3, 3)))
        axes.set_yticks(range(len(rows)), [_shortened(row.name) for row in rows], color=TEXT)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(xlabel)
        if limits:
            axes.set_xlim(*limits)
        if limits == (0, 1):
            axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=None))
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    values = "; ".join(f"{row.name} {write(row.value)}" for row in rows)
    return inline_svg(figure, label=f"{title}: {values}")


def _dot(axes: Axes, y: int, row: ChartRow) -> None:
    colour = PRIMARY if row.highlighted else SECONDARY
    if row.interval:
        axes.plot(row.interval, [y, y], color=colour, linewidth=2, solid_capstyle="round")
    axes.plot(row.value, y, "o", color=colour, markersize=7)


def _shortened(name: str) -> str:
    """Shortens a name to fit; the table next to the chart has the full name."""
    text = printable(name)
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"


def reliability_chart(bins: Sequence[CalibrationBin]) -> Markup:
    """Draws accuracy against confidence, with the diagonal of perfect calibration."""
    most = max(each.n for each in bins)
    with matplotlib.rc_context(STYLE):
        figure, axes = _square()
        axes.plot([0, 1], [0, 1], color=LABEL, linewidth=1, linestyle=(0, (3, 3)))
        axes.plot([b.confidence for b in bins], [b.accuracy for b in bins], color=PRIMARY, linewidth=2)
        for b in bins:
            axes.plot([b.confidence] * 2, b.ci95, color=PRIMARY, linewidth=1, alpha=0.5)
            (dot,) = axes.plot(b.confidence, b.accuracy, "o", color=PRIMARY, markersize=5 + 8 * (b.n / most) ** 0.5)
            images = "image" if b.n == 1 else "images"
            _tooltip(
                dot, f"{b.n:,} {images}, confidence {_in_percent(b.confidence)}, accuracy {_in_percent(b.accuracy)}"
            )
        _percent(axes, "confidence, %", "accuracy, %")
    values = "; ".join(f"confidence {_in_percent(b.confidence)}, accuracy {_in_percent(b.accuracy)}" for b in bins)
    return inline_svg(figure, label=f"Reliability diagram: {values}")


@dataclass(frozen=True)
class Curve:
    """A named curve of (epoch, value); epochs are counted from 1."""

    name: str
    points: Sequence[tuple[int, float]]
    highlighted: bool = True


def curve_chart(curves: Sequence[Curve], *, ylabel: str, best: int | None, fraction: bool = False) -> Markup:
    """Draws learning curves; a dashed line marks the best epoch."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _square()
        if best:
            axes.axvline(best, color=LABEL, linewidth=1, linestyle=(0, (3, 3)))
        for curve in curves:
            colour, marker = (PRIMARY, "o") if curve.highlighted else (SECONDARY, "")
            xs, ys = zip(*curve.points, strict=True)
            axes.plot(xs, ys, color=colour, linewidth=2, marker=marker, markersize=4, label=curve.name)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
        if fraction:
            _percent(axes, "epoch", ylabel, x=False)
        else:
            axes.set_ylim(bottom=0)
            axes.set(xlabel="epoch", ylabel=ylabel)
        if len(curves) > 1:
            axes.legend(frameon=False, labelcolor=TEXT)
    ends = [_in_percent(curve.points[-1][1]) if fraction else f"{curve.points[-1][1]:.3f}" for curve in curves]
    names = [f"{curve.name} " for curve in curves] if len(curves) > 1 else [""]
    last = ", ".join(f"{name}ends at {end}" for name, end in zip(names, ends, strict=True))
    return inline_svg(figure, label=f"{ylabel.removesuffix(', %')} over {curves[0].points[-1][0]} epochs: {last}")


@dataclass(frozen=True)
class CostPoint:
    """One network: its score and multiply-adds; `rank` is its rank on the Pareto front, from 1, or None."""

    name: str
    macs: float
    score: float
    ci95: Interval | None
    rank: int | None


def pareto_chart(points: Sequence[CostPoint], *, metric: str) -> Markup:
    """Draws the metric against cost; the networks on the Pareto front are connected and numbered."""
    front = sorted((p for p in points if p.rank), key=lambda p: p.rank or 0)
    with matplotlib.rc_context(STYLE):
        figure, axes = _square()
        axes.plot([_millions(p) for p in front], [p.score for p in front], color=PRIMARY, linewidth=2)
        for p in sorted(points, key=lambda p: bool(p.rank)):
            _cost_dot(axes, p, with_interval=len(points) <= LABELLED_ROWS)
        costs = [_millions(p) for p in points]
        log_scale(axes, log10(max(costs) / min(costs)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
        axes.set(xlabel="multiply-adds for one image, millions", ylabel=f"{metric}, %")
        _number(axes, front)
    names = "; ".join(f"{p.rank}: {p.name} {_in_percent(p.score)}" for p in front)
    title = metric[:1].upper() + metric[1:]
    label = f"{title} against cost, {len(points)} networks, {len(front)} on the Pareto front: {names}"
    return inline_svg(figure, label=label)


def _in_percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _cost_dot(axes: Axes, p: CostPoint, *, with_interval: bool) -> None:
    colour = PRIMARY if p.rank else SECONDARY
    if p.ci95 and with_interval:
        axes.plot([_millions(p)] * 2, p.ci95, color=colour, linewidth=1, alpha=0.5)
    (dot,) = axes.plot(_millions(p), p.score, "o", color=colour, markersize=7)
    _tooltip(dot, f"{p.name}: {_in_percent(p.score)}")


def _millions(point: CostPoint) -> float:
    return max(point.macs, 1) / 1e6


def _number(axes: Axes, front: Sequence[CostPoint]) -> None:
    """Writes the rank next to each dot of the front, on alternate sides if two dots are close."""
    right, last = True, (-99.0, -99.0)
    for point in front:
        x, y = axes.transData.transform((_millions(point), point.score))
        right = not right if abs(x - last[0]) < 16 and abs(y - last[1]) < 16 else True
        last = (x, y)
        place, (offset, side) = (_millions(point), point.score), (7, "left") if right else (-7, "right")
        axes.annotate(str(point.rank), place, xytext=(offset, 4), textcoords="offset points", ha=side)


def _square() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    return figure, figure.subplots()


def _percent(axes: Axes, xlabel: str, ylabel: str, *, x: bool = True) -> None:
    """Formats axes of fractions from 0 to 1 in percent."""
    for axis in ("x", "y") if x else ("y",):
        axes.set(**{f"{axis}lim": (-0.02, 1.02), f"{axis}ticks": [0, 0.25, 0.5, 0.75, 1]})
        getattr(axes, f"{axis}axis").set_major_formatter(PercentFormatter(1, symbol=None, decimals=0))
    axes.set(xlabel=xlabel, ylabel=ylabel)


def _tooltip(artist: Artist, text: str) -> None:
    """Sets the text that a browser shows when the mouse is over the artist."""
    artist.set_gid(TOOLTIP + printable(text))


def inline_svg(figure: Figure, *, label: str) -> Markup:
    """Converts the figure to an svg element in the page's colours and font, without style and id attributes.

    The page's Content-Security-Policy forbids style attributes, so declarations become presentation attributes. `label`
    describes the figure to screen readers.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser's font has it
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    markers = {child.get("id"): child for defs in root.iter("defs") for child in defs}
    svg = _cleaned(root, markers)
    svg.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": printable(label), "class": "chart"}
    return Markup(ElementTree.tostring(svg, encoding="unicode"))


def _cleaned(element: ElementTree.Element, markers: Mapping[str | None, ElementTree.Element]) -> ElementTree.Element:
    """Replaces references to markers by the markers, and style declarations by presentation attributes."""
    attributes = dict(element.attrib)
    if element.tag == "use":
        x, y = attributes.pop("x", "0"), attributes.pop("y", "0")
        element = markers[attributes.pop(XLINK)[1:]]
        attributes = {**element.attrib, **attributes, "transform": f"translate({x} {y})"}
    attributes |= _presentation(attributes.pop("style", ""))
    identity, _ = attributes.pop("id", ""), attributes.pop("clip-path", None)
    rounded = {name: LONG_NUMBER.sub(_rounded, text) for name, text in attributes.items()}
    cleaned = ElementTree.Element(element.tag, rounded)
    cleaned.text = (element.text or "").strip()
    if identity.startswith(TOOLTIP):
        ElementTree.SubElement(cleaned, "title").text = identity.removeprefix(TOOLTIP)
    cleaned.extend(_cleaned(child, markers) for child in element if child.tag not in ("metadata", "defs"))
    return cleaned


def _presentation(style: str) -> dict[str, str]:
    """Converts CSS declarations to attributes; of a font it keeps only the size.

    >>> _presentation("font: 11px 'DejaVu Sans'; fill: #1c1f23")
    {'font-size': '11px', 'fill': 'var(--ink)'}
    """
    attributes = {}
    for declaration in filter(None, style.split("; ")):
        name, _, value = declaration.rstrip(";").partition(": ")
        if name == "font":
            name, value = "font-size", value.split()[0]
        if name != "font-family":
            attributes[name] = f"var(--{VARIABLES[value]})" if value in VARIABLES else value
    return attributes


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}"
