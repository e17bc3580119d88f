"""Figures as SVG in the page's own colours: small ones, two side by side or one on a phone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from multistream.reporting.markup import Safe, join, tag

WIDTH, HEIGHT = 360.0, 260.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 26.0, 40.0
"""Margins around the plotted area, in pixels."""

Point = tuple[float, float]


def plain_number(value: float) -> str:
    """A tick as short as it can be, with a true minus.

    >>> plain_number(-0.5)
    '−0.5'
    """
    return f"{value:g}".replace("-", "−")


@dataclass(frozen=True)
class Axis:
    """One axis: what it shows, from where to where, its ticks and how they are written."""

    title: str
    low: float
    high: float
    ticks: Sequence[float]
    write: Callable[[float], str] = plain_number

    def place(self, value: float) -> float:
        """The share of the axis at which a value lies."""
        return (value - self.low) / ((self.high - self.low) or 1.0)


def axis(
    title: str,
    values: Sequence[float],
    *,
    write: Callable[[float], str] = plain_number,
    zero: bool = False,
) -> Axis:
    """An axis with round ticks around values; with `zero` it begins there."""
    low, high = (0.0 if zero else min(values)), max(values)
    step = _round_step(max(high - low, 1e-6 * max(1.0, abs(low), abs(high))))  # one value alone has a span too
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    last = max(last, first + 1)
    ticks = [round(i * step, 10) for i in range(first, last + 1)]
    return Axis(title, ticks[0], ticks[-1], ticks, write)


def _round_step(span: float) -> float:
    rough = span / 4
    power = 10.0 ** floor(log10(rough))
    return float(next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough - 1e-12))


@dataclass(frozen=True)
class Plot:
    """The plotted area: from values to pixels."""

    x: Axis
    y: Axis

    def at(self, x: float, y: float) -> Point:
        """The pixel of a point."""
        return (
            LEFT + self.x.place(x) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - self.y.place(y) * (HEIGHT - TOP - BOTTOM),
        )

    def line(self, points: Sequence[Point], kind: str) -> Safe:
        """A line through points."""
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in (self.at(*point) for point in points))
        return tag("polyline", attributes={"points": path, "class": f"line {kind}"})

    def dot(self, point: Point, kind: str, *, title: str = "", radius: float = 3.5) -> Safe:
        """A dot, which tells its numbers when it is pointed at."""
        px, py = self.at(*point)
        inner = [tag("title", title)] if title else []
        return tag("circle", *inner, attributes={"cx": px, "cy": py, "r": radius, "class": f"dot {kind}"})

    def bar(self, x: float, low: float, high: float, kind: str) -> Safe:
        """An upright interval at x."""
        (px, bottom), (_, top) = self.at(x, low), self.at(x, high)
        return tag("line", attributes={"x1": px, "x2": px, "y1": bottom, "y2": top, "class": f"line {kind}"})

    def text(
        self, point: Point, words: str, kind: str = "", *, dx: float = 0, dy: float = 0, end: bool = False
    ) -> Safe:
        """Words at a point."""
        px, py = self.at(*point)
        anchor = "end" if end else None
        return tag("text", words, attributes={"x": px + dx, "y": py + dy, "class": kind or None, "text-anchor": anchor})

    def frame(self) -> Safe:
        """Grid, ticks and titles."""
        marks = [self._tick_y(tick) for tick in self.y.ticks] + [self._tick_x(tick) for tick in self.x.ticks]
        x_title = {"x": WIDTH - RIGHT, "y": HEIGHT - 6, "text-anchor": "end", "class": "title"}
        marks.append(tag("text", self.x.title, attributes=x_title))
        marks.append(tag("text", self.y.title, attributes={"x": 2.0, "y": 12.0, "class": "title"}))
        return join(marks)

    def _tick_y(self, tick: float) -> Safe:
        (x, y), (end, _) = self.at(self.x.low, tick), self.at(self.x.high, tick)
        label = {"x": x - 6, "y": y + 3.5, "text-anchor": "end"}
        line = {"x1": x, "x2": end, "y1": y, "y2": y, "class": "grid"}
        return join([tag("line", attributes=line), tag("text", self.y.write(tick), attributes=label)])

    def _tick_x(self, tick: float) -> Safe:
        x, y = self.at(tick, self.y.low)
        return tag("text", self.x.write(tick), attributes={"x": x, "y": y + 16, "text-anchor": "middle"})


def drawing(*marks: Safe, label: str, width: float = WIDTH, height: float = HEIGHT) -> Safe:
    """The SVG element, which says what it shows to those who do not see it."""
    given = {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": label, "class": "plot"}
    return tag("svg", *marks, attributes=given)


def figure(*drawings: Safe, caption: str, numbers: Safe | None = None) -> Safe:
    """Drawings under one caption, with their numbers as a table that opens."""
    inner = [tag("div", *drawings, attributes={"class": "plots"}), tag("figcaption", caption)]
    return tag("figure", *inner, *([numbers] if numbers else []))
