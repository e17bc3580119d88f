"""A row for each entry: a dot with its interval on a common scale, the name before and the number behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from multistream.reporting.figures import Axis, drawing
from multistream.reporting.markup import Safe, tag

ROW, NAME, VALUE, WIDTH, FOOT = 26.0, 122.0, 62.0, 360.0, 34.0
LONGEST = 19
"""Letters of a name that there is room for."""


@dataclass(frozen=True)
class Entry:
    """A value with its interval; `kind` is its class in the style sheet."""

    name: str
    value: float
    ends: tuple[float, float] | None = None
    kind: str = "second"


def dot_plot(
    entries: Sequence[Entry], *, scale: Axis, label: str, write: Callable[[float], str], mark: float | None = None
) -> Safe:
    """Entries one under the other; `mark` draws an upright line, at chance say."""
    height = ROW * len(entries) + FOOT
    inner = WIDTH - NAME - VALUE

    def x(value: float) -> float:
        return NAME + scale.place(value) * inner

    marks = []
    for tick in scale.ticks:
        line = {"x1": x(tick), "x2": x(tick), "y1": 4.0, "y2": height - FOOT, "class": "grid"}
        text = {"x": x(tick), "y": height - FOOT + 14, "text-anchor": "middle"}
        marks += [tag("line", attributes=line), tag("text", scale.write(tick), attributes=text)]
    if mark is not None:
        marks.append(
            tag("line", attributes={"x1": x(mark), "x2": x(mark), "y1": 4.0, "y2": height - FOOT, "class": "line rule"})
        )
    for row, entry in enumerate(entries):
        y = ROW * row + ROW / 2 + 4
        marks.append(tag("text", shortened(entry.name), attributes={"x": 0.0, "y": y + 4, "class": "name"}))
        if entry.ends:
            low, high = entry.ends
            marks.append(
                tag("line", attributes={"x1": x(low), "x2": x(high), "y1": y, "y2": y, "class": f"line {entry.kind}"})
            )
        marks.append(tag("circle", attributes={"cx": x(entry.value), "cy": y, "r": 4.0, "class": f"dot {entry.kind}"}))
        marks.append(
            tag("text", write(entry.value), attributes={"x": WIDTH, "y": y + 4, "text-anchor": "end", "class": "name"})
        )
    marks.append(tag("text", scale.title, attributes={"x": NAME, "y": height - 4, "class": "title"}))
    return drawing(*marks, label=label, height=height)


def shortened(name: str) -> str:
    """A name that fits; the table below has it whole."""
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
