"""An ablation on the page: accuracy against cost, the rows that nothing cheaper beats, and what else its axis tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from multistream.reporting.ablations import Ablation, in_short, pareto
from multistream.reporting.charts import SHARES, p_value
from multistream.reporting.dots import Entry, dot_plot
from multistream.reporting.figures import Axis, Plot, axis, drawing, figure
from multistream.reporting.markup import Safe, details, interval, join, pair, percent, signed, table, tag

INTRO = (
    "Parts were left out, and what remained was trained again. Difference: to the whole composition, in points. "
    "Masked: the whole, trained once, with the average training photo's values in place of what is left out."
)
MOST = 12
"""Rows of the longest table that is shown open."""
TITLES = {"depth": "Depth", "taps": "Taps", "streams": "Streams"}


def ablation(found: Ablation) -> Safe:
    """Everything of one ablation."""
    front = pareto(found.rows)
    head = ["kept", "accuracy", "95 % interval", "difference", p_name(found), "masked", "parameters", "M adds", "front"]
    kept, shared = [row["keep"] for row in found.rows], shared_fusion(found)
    names = in_short(kept) if found.axis in ("depth", "taps") else kept
    rows = [_row(row, front.index(i) + 1 if i in front else None, names[i], shared) for i, row in enumerate(found.rows)]
    used = [k for k, name in enumerate(head) if any(row[k] for row in rows)]
    numbers = table(
        [head[k] for k in used], [[row[k] for k in used] for row in rows], caption=_about(found), kind="tight"
    )
    parts = [_front(found, front)] if len(front) > 1 else []
    parts.append(details(f"Numbers of all {len(rows)} rows", numbers) if len(rows) > MOST else numbers)
    return join(
        [tag("h3", TITLES.get(found.axis, found.axis)), *_beside(parts[:-1], found), parts[-1], *_streams(found)]
    )


def p_name(found: Ablation) -> str:
    """Whether p values are corrected for the number of rows."""
    return "p (Holm)" if any(row.get("p_holm") is not None for row in found.rows) else "p"


def _about(found: Ablation) -> str:
    """How the ablation was made, as far as its file says."""
    known = found.whole
    told = [f"Ablation by {found.axis}, {len(found.rows)} rows"]
    if "n" in known:
        told.append(f"{known['n']:,} test photos")
    if "seeds" in known and "split_seeds" in known:
        told.append(f"seeds: {len(known['seeds'])}, splits: {len(known['split_seeds'])}")
    if shared := shared_fusion(found):
        told.append(f"{shared} fusion")
    return ", ".join(told) + "; M adds: millions of multiply-adds for one photo"


def shared_fusion(found: Ablation) -> str:
    """The fusion of all rows, where they have one."""
    fusions = {row.get("fusion") or "" for row in found.rows}
    return fusions.pop() if len(fusions) == 1 else ""


def _row(row: Mapping[str, Any], place: int | None, name: str, shared: str) -> list[str]:
    p = row.get("p_holm") if row.get("p_holm") is not None else row.get("p_value")
    masked, delta = row.get("masked_accuracy"), row.get("delta")
    fusion = f"; {row['fusion']}" if row.get("fusion") and "," in row["keep"] and not shared else ""
    return [
        name + fusion,
        percent(row["accuracy"]),
        interval(row["accuracy_ci95"]) if row.get("accuracy_ci95") else "",
        "" if delta is None else signed(100 * delta, 1),
        "" if p is None else p_value(p),
        "" if masked is None else percent(masked),
        "" if row.get("params") is None else f"{row['params']:,}",
        "" if row.get("macs") is None else f"{row['macs'] / 1e6:,.1f}",
        "" if place is None else str(place),
    ]


def _front(found: Ablation, front: Sequence[int]) -> Safe:
    """A dot for each row; those on the Pareto front are numbered as in the table."""
    known = [row for row in found.rows if row.get("macs") is not None]
    ends = [end for row in known for end in row.get("accuracy_ci95") or (row["accuracy"],)]
    plot = Plot(
        axis("multiply-adds for one photo, millions", [row["macs"] / 1e6 for row in known], zero=True),
        axis("accuracy, %", ends, write=SHARES.write),
    )
    at = [(found.rows[i]["macs"] / 1e6, found.rows[i]["accuracy"]) for i in front]
    marks = [plot.frame(), plot.line(at, "first")]
    best = [found.rows[i] for i in front]
    for row in [*(row for row in known if row not in best), *best]:
        point, kind = (row["macs"] / 1e6, row["accuracy"]), "first" if row in best else "second"
        if row.get("accuracy_ci95") and len(known) <= MOST:
            low, high = row["accuracy_ci95"]
            marks.append(plot.bar(point[0], low, high, "thin" if kind == "first" else "faint"))
        marks.append(plot.dot(point, kind, title=f"{row['keep']}: {percent(row['accuracy'])}"))
    marks += _numbers(plot, at)
    told = "; ".join(
        f"{n}: {found.rows[i]['keep']} {percent(found.rows[i]['accuracy'])}" for n, i in enumerate(front, 1)
    )
    label = f"Accuracy against cost, {len(known)} compositions, {len(at)} on the Pareto front: {told}"
    bars = " Upright lines are 95 % intervals." if len(known) <= MOST else ""
    caption = f"The line joins what nothing cheaper beats (the Pareto front), numbered as in the table.{bars}"
    return figure(drawing(*marks, label=label), caption=caption)


def _numbers(plot: Plot, at: Sequence[tuple[float, float]]) -> Iterator[Safe]:
    """The front's numbers beside their dots: on the left where the one before is too near on the right."""
    right, last = True, (-99.0, -99.0)
    for n, point in enumerate(at, start=1):
        x, y = plot.at(*point)
        right = not right if abs(x - last[0]) < 14 and abs(y - last[1]) < 14 else True
        last = (x, y)
        yield plot.text(point, str(n), "name", dx=6 if right else -6, dy=-4, end=not right)


def _beside(parts: Sequence[Safe], found: Ablation) -> Iterator[Safe]:
    """The figures side by side."""
    shares = found.whole.get("shapley") or ()
    both = [*parts, *([_taps(shares)] if shares else [])]
    if both:
        yield pair(*both)


def _taps(shares: Sequence[Mapping[str, Any]]) -> Safe:
    """Each tap's part in the accuracy of all subsets."""
    spread = [(100 * each["value"], 100 * (each.get("deviation") or 0.0)) for each in shares]
    ends = [0.0, *(value + sign * wide for value, wide in spread for sign in (-1, 1))]
    entries = [
        Entry(f"{each['stream']} {each['stage']}", value, (value - wide, value + wide) if wide else None, "first")
        for each, (value, wide) in zip(shares, spread, strict=True)
    ]
    scale: Axis = axis("points of accuracy", ends)
    label = "Shapley values of taps: " + "; ".join(f"{each.name} {signed(each.value, 1)}" for each in entries)
    plot = dot_plot(entries, scale=scale, label=label, write=lambda v: signed(v, 1), mark=0.0)
    lines = " Lines are one deviation over the trainings." if any(wide for _, wide in spread) else ""
    caption = f"Shapley value of each tap: its mean part in the accuracy, over all subsets that were trained.{lines}"
    return figure(plot, caption=caption)


def _streams(found: Ablation) -> Iterator[Safe]:
    """How streams complete each other."""
    known = found.whole.get("streams")
    if not known:
        return
    rows = [
        [f"{each['first']}, {each['second']}", *(percent(each[k]) for k in ("disagreement", "double_fault", "oracle"))]
        for each in known["pairs"]
    ]
    title = "Streams two by two, each trained alone: share of the test photos"
    left = table(["streams", "they differ", "both wrong", "one at least right"], rows, caption=title, kind="tight")
    rows = [
        [each["fusion"], each["stream"], percent(each["accuracy"]), signed(100 * each["delta"], 1)]
        for each in known["leave_one_out"]
    ]
    title = "Fusions without one stream; difference to all streams, in points"
    right = table(["fusion", "without", "accuracy", "difference"], rows, words=2, caption=title, kind="tight")
    yield pair(left, right)
