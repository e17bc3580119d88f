"""Lists of concepts in every form that is published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from multistream.concepts.bank import read_names
from multistream.errors import DataError

ANP = Path(__file__).parents[3] / "shared" / "data" / "anp"

SENTIBANK = (
    "The sentiment value of each ANP is created by merging.\n\n\n"
    "1. beautiful [sentiment: 1.00] [#images: 18,487,527]\n"
    "\tbeautiful_flower [sentiment: 1.77] [#imgs: 2,380,000]\n"
    "\tbeautiful_girl [sentiment: 1.67] [#imgs: 1,110,000]\n"
    "2. sad [sentiment: -1.00] [#images: 4]\n"
    "\tsad_dog [sentiment: -1.77] [#imgs: 4]\n"
)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("misty woods\n\n  old_city \r\n", ("misty woods", "old_city")),
        ("\ufeffmisty woods", ("misty woods",)),
        (json.dumps(["old_city", "café noir"]), ("old_city", "café noir")),
        (SENTIBANK, ("beautiful_flower", "beautiful_girl", "sad_dog")),
    ],
)
def test_every_form_is_read(text: str, names: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text(text, encoding="utf-8")
    assert read_names(path) == names


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\n \n", "it holds no names"),
        (b"[]", "it holds no names"),
        (b'["a", 3]', "a JSON list that does not only hold names"),
        (b'["a"', "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"old_city\nnew\nOld city\n", "'Old city' occurs twice, as names 1 and 3"),
    ],
)
def test_what_is_no_list_is_refused(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_names(path)


@pytest.mark.skipif(not ANP.is_dir(), reason="../shared/data/anp is not here")
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("deepsentibank_classes.json", 2_089),
        ("1200ANPsv1.1.txt", 1_200),
        ("3244ANPs.txt", 3_244),
        ("mvso_english_label.txt", 4_342),
    ],
)
def test_the_published_lists_of_adjective_noun_pairs(name: str, count: int) -> None:
    names = read_names(ANP / name)
    assert len(names) == count
    assert all(pair.count("_") >= 1 and not pair.startswith("_") for pair in names)
