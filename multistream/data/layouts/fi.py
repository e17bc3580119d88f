"""FI (You et al., AAAI 2016), in the three forms that people have it: class folders, the release's votes, lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from multistream.data.image_files import list_images
from multistream.data.layouts.assemble import PARTS, Entry, Finder, assemble, choose, counted, emotion, folder_of
from multistream.data.layouts.delimited_text import Row, read_rows, where
from multistream.data.layouts.folders import folders
from multistream.data.table import Table
from multistream.errors import DataError, UsageError, printable

RULES = ("majority", "three")
"""When an image of the release is kept: more agree than disagree, or at least three of the five agree."""

_LIST_COLUMNS = ("file_link", "emotion")


def fi(path: Path, *, label: str = "", allow_outside: bool = False) -> Table:
    """FI from `label/{train,test}.csv` if there are such, else from the votes in `agg/`, else from class folders.

    `label` is the rule by which votes count: "majority" (agree > disagree) or "three" (at least 3 agree).
    """
    folder_of(path)
    lists = sorted((path / "label").glob("*.csv"))
    votes = sorted((path / "agg").glob("*_*.csv"))
    if label and (lists or not votes):
        raise UsageError("data.label", "fi has a choice of labels only with the votes in agg/.", do="Leave it out.")
    if not lists and not votes:
        root = folder_of(path, "emotion_dataset")
        return folders(root, allow_outside=allow_outside, name="fi")
    finder = Finder(list_images(path, allow_outside=allow_outside))
    if lists:
        return _from_lists(path, lists, finder)
    return _from_votes(path, votes, finder, rule=choose("fi", label, RULES))


def _from_lists(path: Path, lists: Sequence[Path], finder: Finder) -> Table:
    entries: dict[str, Entry] = {}
    counts: Counter[str] = Counter()
    for file in lists:
        if file.stem.lower() not in PARTS:
            counts[f"lists ignored: named after no split ({printable(file.name)})"] += 1
            continue
        for row, link, name in _list(file):
            image_id = finder.find(link)
            if image_id is None:
                counts["images left out: listed, but not in the folder"] += 1
            elif entries.setdefault(
                image_id, Entry(image_id, emotion(name), PARTS[file.stem.lower()])
            ).label != emotion(name):
                raise DataError(
                    where(file, row),
                    f"{image_id!r} has a different label on an earlier line.",
                    do="Keep one of them.",
                )
    return assemble("fi", path, entries.values(), notes=(*finder.listing.notes, *counted(counts)))


def _list(file: Path) -> list[tuple[Row, str, str]]:
    rows = read_rows(file)
    header = [cell.strip().lower() for cell in rows[0].cells] if rows else []
    if not set(_LIST_COLUMNS) <= set(header):
        right = f"It must name the columns {','.join(_LIST_COLUMNS)}."
        raise DataError(f"{file}:1", f"the first line is {','.join(header)!r}.", right=right)
    link, name = (header.index(column) for column in _LIST_COLUMNS)
    for row in rows[1:]:
        if len(row.cells) != len(header):
            raise DataError(where(file, row), f"{len(row.cells)} cells for {len(header)} columns.")
    return [(row, row.cells[link].strip(), row.cells[name]) for row in rows[1:]]


def _from_votes(path: Path, files: Sequence[Path], finder: Finder, *, rule: str) -> Table:
    """Each image gets the emotion with the largest lead of agree over disagree; tied ones are left out."""
    leads: dict[str, dict[str, int]] = {}
    counts: Counter[str] = Counter()
    for file in files:
        for row in read_rows(file, delimiter=","):
            url, disagree, agree = _vote(file, row)
            if not (agree > disagree if rule == "majority" else agree >= 3):
                counts["votes left out: annotators disagree"] += 1
            elif (image_id := finder.find(url.rsplit("/", 1)[-1])) is None:
                counts["images left out: votes but no file"] += 1
            else:
                leads.setdefault(image_id, {})[emotion(file.stem.split("_")[0])] = agree - disagree
    winners = {image_id: _leader(votes) for image_id, votes in leads.items()}
    counts["images left out: two emotions tie"] = list(winners.values()).count(None)
    entries = [Entry(image_id, name) for image_id, name in sorted(winners.items()) if name]
    return assemble("fi", path, entries, notes=(f"votes: {rule}", *finder.listing.notes, *counted(counts)))


def _vote(file: Path, row: Row) -> tuple[str, int, int]:
    """URL, disagree and agree of a row `_,url,disagree,agree`."""
    try:
        _, url, disagree, agree = (cell.strip() for cell in row.cells)
        return url, int(disagree), int(agree)
    except ValueError as error:
        right = "It must be number,url,disagree,agree."
        raise DataError(where(file, row), f"{','.join(row.cells)!r} is not a vote.", right=right) from error


def _leader(votes: Mapping[str, int]) -> str | None:
    first, *others = sorted(votes, key=lambda name: votes[name], reverse=True)
    return None if others and votes[others[0]] == votes[first] else first
