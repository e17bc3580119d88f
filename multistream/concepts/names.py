"""Reads lists of concepts: one name per line, a JSON list, or SentiBank's list of adjective-noun pairs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from multistream.errors import DataError

SENTIBANK = re.compile(r"^\t(\S+) \[sentiment: ", re.MULTILINE)
"""A pair in SentiBank's 3244ANPs.txt: indented under its adjective, with its sentiment and number of images."""

RIGHT = "One name per line, or a JSON list of names."


def read_names(path: str | Path) -> tuple[str, ...]:
    """Reads the names in a file, in its order. Raises DataError if it cannot be read, is empty, or repeats a name."""
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = _names_in(text)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(path, f"it cannot be read: {error}.", right=RIGHT) from error
    if not names:
        raise DataError(path, "it holds no names.", right=RIGHT)
    _check_once(names, path)
    return names


def _check_once(names: Sequence[str], path: Path) -> None:
    places: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        first = places.setdefault(shown(name).casefold(), number)
        if first != number:
            raise DataError(path, f"{name!r} occurs twice, as names {first} and {number}.", do="Remove one.")


def shown(name: str) -> str:
    """Formats a name for a sentence.

    >>> shown("misty_woods")
    'misty woods'
    """
    return " ".join(name.replace("_", " ").split())


def _names_in(text: str) -> tuple[str, ...]:
    if text.lstrip().startswith("["):
        names = json.loads(text)
        if not all(isinstance(name, str) and name.strip() for name in names):
            raise ValueError("it is a JSON list that does not only hold names")
        return tuple(map(str.strip, names))
    return tuple(SENTIBANK.findall(text) or filter(None, map(str.strip, text.splitlines())))
