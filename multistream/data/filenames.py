"""Escapes file names so that they cannot break a line or a spreadsheet, and unescapes them; suffixes of paths."""

from __future__ import annotations

import re

_ESCAPE = re.compile(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|\\|[=+\-@'])")
_NUMBER = re.compile(r"[+-]?[0-9]+([.][0-9]+)?")
_FORMULA = ("=", "+", "-", "@", "'")


def escape(name: str) -> str:
    r"""`name` for a CSV file: one line, UTF-8, and not a formula that a spreadsheet would run.

    Backslashes are doubled, unprintable characters become \xHH, \uHHHH or \UHHHHHHHH, and a leading sign that would
    start a formula gets a backslash, unless the name is a number. `unescape` is the inverse.

    >>> print(escape("=cmd().jpg"))
    \=cmd().jpg
    """
    is_plain = name.isascii() and name.isprintable() and "\\" not in name
    text = name if is_plain else "".join(map(_escaped, name))
    return "\\" + text if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text


def unescape(text: str) -> str:
    """The inverse of `escape`.

    >>> unescape(escape("a\\nb\\\\c")) == "a\\nb\\\\c"
    True
    """
    return _ESCAPE.sub(lambda match: _unescaped(match[1]), text) if "\\" in text else text


def _escaped(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if (character.isprintable() and not character.isspace()) or character == " ":
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _unescaped(escaped: str) -> str:
    return chr(int(escaped[1:], 16)) if escaped[0] in "xuU" else escaped


def path_ends(path: str) -> list[str]:
    """The suffixes of a path, in whole components, longest first.

    >>> path_ends("set/joy/1.jpg")
    ['set/joy/1.jpg', 'joy/1.jpg', '1.jpg']
    """
    pieces = [piece for piece in path.replace("\\", "/").split("/") if piece not in ("", ".")]
    return ["/".join(pieces[start:]) for start in range(len(pieces))]
