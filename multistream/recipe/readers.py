"""Readers of single settings: each checks a value from TOML or Python and returns it as stored, or raises Wrong."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

Reader = Callable[[Any], Any]

NOUNS = {bool: "true or false", int: "an integer", float: "a number", str: "a string", list: "a list", dict: "a table"}


class Wrong(Exception):
    """An invalid value: `what` is wrong, what would be `right`, and the `path` of the entry in a table or list."""

    def __init__(self, what: str, right: str, *, path: tuple[str, ...] = ()) -> None:
        self.what, self.right, self.path = what, right, path
        super().__init__(what, right)


def integer(at_least: float = -math.inf, at_most: float = math.inf) -> Reader:
    """A reader of integers within inclusive bounds."""
    right = f"an integer{_bounds(at_least, at_most)}"

    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise _type(value, right)
        if not at_least <= value <= at_most:
            raise _out_of_range(value, right)
        return value

    return read


def number(
    at_least: float = -sys.float_info.max,
    at_most: float = sys.float_info.max,
    *,
    above: float = -math.inf,
    below: float = math.inf,
) -> Reader:
    """A reader of finite numbers within bounds; integers become floats."""
    words = [f" {word} {bound:g}" for word, bound in (("above", above), ("below", below)) if math.isfinite(bound)]
    bounds = " and".join(filter(None, (_bounds(at_least, at_most), *words)))
    right = f"a number{bounds}" if bounds else "a finite number"

    def read(value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise _type(value, right)
        if not (at_least <= value <= at_most and above < value < below):
            raise _out_of_range(value, right)
        return float(value)

    return read


def flag(value: Any) -> bool:
    """Reads true or false."""
    if not isinstance(value, bool):
        raise _type(value, "true or false")
    return value


def text(value: Any) -> str:
    """Reads text that a file can hold."""
    if not isinstance(value, str):
        raise _type(value, 'a string, in quotes: "..."')
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Wrong(f"{value!r} holds bytes that are not UTF-8.", "a name that is UTF-8: rename the file") from error
    if "\0" in value:
        raise Wrong(f"{value!r} holds a NUL character.", "text without it")
    return value


def one_of(*choices: str) -> Reader:
    """A reader of one of these words."""
    right = f"one of {', '.join(choices)}"

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise Wrong(f"{value!r} is unknown.", right)
        return value

    return read


def matching(pattern: str, right: str) -> Reader:
    """A reader of text that matches the pattern; `right` describes it for messages."""

    def read(value: Any) -> str:
        if not re.fullmatch(pattern, text(value)):
            raise Wrong(f"{value!r} cannot be read.", right)
        return str(value)

    return read


def listing(reader: Reader, *, length: int | None = None) -> Reader:
    """A reader of lists, with `reader` for each entry; returns a tuple."""
    right = "a list" if length is None else f"a list of {length}"

    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise _type(value, right)
        if length is not None and len(value) != length:
            raise Wrong(f"{list(value)} has {len(value)} entries.", right)
        return tuple(_inside(str(place), reader, entry) for place, entry in enumerate(value))

    return read


def table(reader: Reader) -> Reader:
    """A reader of tables, with `reader` for each entry."""

    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise _type(value, "a table")
        return {text(name): _inside(name, reader, entry) for name, entry in value.items()}

    return read


def anything(value: Any) -> Any:
    """Reads any value that a plugin's option may have: text, number, flag, and lists and tables of these."""
    readers: tuple[tuple[Any, Reader], ...] = (
        (bool, flag),
        (int, integer(-(2**63), 2**63 - 1)),
        (float, number()),
        (str, text),
        (list | tuple, lambda value: list(listing(anything)(value))),
        (Mapping, table(anything)),
    )
    for kind, reader in readers:
        if isinstance(value, kind):
            return reader(value)
    raise _type(value, "text, a number, true or false, or a list or table of these")


def _inside(name: str, reader: Reader, value: Any) -> Any:
    """Reads an entry of a table or list; errors contain its name."""
    try:
        return reader(value)
    except Wrong as error:
        raise Wrong(error.what, error.right, path=(name, *error.path)) from error


def _type(value: Any, right: str) -> Wrong:
    noun = next((words for kind, words in NOUNS.items() if isinstance(value, kind)), f"a {type(value).__name__}")
    return Wrong(f"{_shown(value)} is {noun}.", right)


def _shown(value: Any) -> str:
    """A value as text for messages, with long numbers and tables shortened.

    >>> _shown(10**400)
    'an integer of about 400 digits'
    """
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"an integer of about {int(value.bit_length() * math.log10(2))} digits"
    try:
        shown = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or a list with a number of too many digits
        return "the value"
    return shown if len(shown) <= 200 else f"{shown[:200]}..."


def _out_of_range(value: float, right: str) -> Wrong:
    return Wrong(f"{_shown(value)} is out of range.", right)


def _bounds(low: float, high: float) -> str:
    """The bounds in words; the largest floats count as no bound."""
    is_low, is_high = -sys.float_info.max < low, high < sys.float_info.max
    if is_low and is_high:
        return f" from {low:,} to {high:,}"
    return f" of at least {low:,}" if is_low else f" of at most {high:,}" if is_high else ""
