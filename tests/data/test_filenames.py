"""Names survive being written and read."""

from __future__ import annotations

import csv
import io
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multistream.data.filenames import escape, unescape
from multistream.errors import printable

NUMBER = re.compile(r"[+-]?[0-9]+([.][0-9]+)?")
NAMES = [
    "a.jpg",
    "=cmd().jpg",
    "-1",
    "@x",
    "+y",
    "'z",
    "a\nb\r\tc",
    "back\\slash\\x41",
    "\\=x",
    "ü/日本.jpg",
    "\u2028",
    "",
]
NAMES += [os.fsdecode(b"caf\xe9.jpg"), "<script>.jpg", "tab\t", "\U000e0001"]


@pytest.mark.parametrize("name", NAMES)
def test_the_way_there_and_back(name: str) -> None:
    text = escape(name)
    assert unescape(text) == name
    assert text.isprintable()
    assert text[:1] not in ("=", "+", "-", "@", "'") or NUMBER.fullmatch(text)
    line = io.StringIO()
    csv.writer(line).writerow([text])
    assert line.getvalue().count("\n") == 1
    text.encode("utf-8")


@given(st.text())
def test_any_text(name: str) -> None:
    assert unescape(escape(name)) == name


def test_names_people_use_are_not_touched() -> None:
    assert escape("amusement/Über uns (2).jpg") == "amusement/Über uns (2).jpg"
    assert printable("é\n\udce9") == "é\\n\\udce9"
