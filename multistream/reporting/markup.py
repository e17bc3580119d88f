"""HTML that cannot be broken out of: every text that goes in is escaped, unless it was made here."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

VOID = frozenset(("br", "col", "hr", "img", "input", "link", "meta"))


class Safe(str):
    """Markup that was made by `tag`, and is not escaped again."""

    __slots__ = ()


def tag(name: str, /, *children: str, attributes: Mapping[str, object] | None = None) -> Safe:
    """An element; children that are not Safe are text, attributes that are None are left out.

    >>> print(tag("b", "a < b", attributes={"title": '"'}))
    <b title="&quot;">a &lt; b</b>
    """
    given = "".join(
        f' {key}="{html.escape(encodable(number(value)))}"'
        for key, value in (attributes or {}).items()
        if value is not None
    )
    return Safe(f"<{name}{given}>" + ("" if name in VOID else f"{join(children)}</{name}>"))


def join(parts: Iterable[str]) -> Safe:
    """Pieces of markup one after the other; what is not Safe is escaped."""
    return Safe("".join(part if isinstance(part, Safe) else html.escape(encodable(part)) for part in parts))


def encodable(text: str) -> str:
    r"""A text that UTF-8 can hold: the bytes of a file name that are none are shown as escapes.

    >>> encodable("a\udcff")
    'a\\udcff'
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def number(value: object) -> str:
    """An attribute's value: coordinates need no more than a hundredth of a pixel."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def paragraph(*children: str) -> Safe:
    """A paragraph."""
    return tag("p", *children)


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "", words: int = 1, kind: str = ""
) -> Safe:
    """A table whose first `words` columns are words, and whose others are numbers; wide ones scroll by themselves."""
    ranks = ["word" if column < words else "number" for column in range(len(head))]
    top = join(tag("th", name, attributes={"scope": "col", "class": r}) for name, r in zip(head, ranks, strict=True))
    body = (join(_cell(cell, ranks[column], column) for column, cell in enumerate(row)) for row in rows)
    inner = [tag("caption", caption)] if caption else []
    inner += [tag("thead", tag("tr", top)), tag("tbody", *(tag("tr", cells) for cells in body))]
    label = caption or ", ".join(name for name in head if name)
    region = {"class": "wide", "tabindex": "0", "role": "region", "aria-label": f"Table: {label}"}
    return tag("div", tag("table", *inner, attributes={"class": kind or None}), attributes=region)


def _cell(cell: str, rank: str, column: int) -> Safe:
    if column:
        return tag("td", cell, attributes={"class": rank})
    return tag("th", cell, attributes={"scope": "row", "class": rank})


def pair(*children: str) -> Safe:
    """Things that stand side by side where there is room."""
    return tag("div", *(tag("div", child) for child in children), attributes={"class": "pair"})


def details(summary: str, *children: str) -> Safe:
    """What is shown when asked for, and always in print."""
    return tag("details", tag("summary", summary), *children)


def embedded_json(value: Any) -> Safe:
    """JSON to stand inside a script element: nothing in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Safe(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def percent(share: float, digits: int = 1) -> str:
    """A share as people read it.

    >>> percent(0.643)
    '64.3 %'
    """
    return f"{100 * share:.{digits}f} %"


def mark(holds: bool) -> str:
    """A verdict that needs no colour."""
    return "✓ holds" if holds else "✗ FAILS"


def interval(ends: Sequence[float], digits: int = 1) -> str:
    """A share's interval in percent.

    >>> interval((0.6266, 0.6591))
    '62.7 to 65.9'
    """
    low, high = ends
    return f"{100 * low:.{digits}f} to {100 * high:.{digits}f}"


def signed(value: float, digits: int = 3) -> str:
    """A number with its sign, with a true minus.

    >>> signed(-0.25, 2)
    '−0.25'
    """
    text = f"{value:+.{digits}f}"
    return (text[1:] if float(text) == 0 else text).replace("-", "−")
