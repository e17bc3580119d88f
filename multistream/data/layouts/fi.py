"""FI (You et al., AAAI 2016) in its three forms: class folders, the release's votes, and lists."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from multistream.data.image_files import list_images
from multistream.data.layouts.assemble import Entry, Finder, assemble, choose, counted, emotion, folder_of, part_files
from multistream.data.layouts.delimited_text import Row, read_columns, read_rows
from multistream.data.layouts.folders import folders
from multistream.data.layouts.votes import winners
from multistream.data.table import Table
from multistream.errors import DataError, UsageError, printable

RULES: dict[str, Callable[[int, int], bool]] = {
    "majority": lambda disagree, agree: agree > disagree,
    "three": lambda _, agree: agree >= 3,
}
"""Rules for keeping an image of the release: more agree than disagree, or at least three of the five agree."""


def fi(path: Path, *, label: str = "", allow_outside: bool = False) -> Table:
    """FI from `label/{train,test}.csv` if they exist, else from the votes in `agg/`, else from class folders.

    `label` is the rule for keeping votes: "majority" (agree > disagree) or "three" (at least 3 agree).
    """
    folder_of(path)
    lists = sorted((path / "label").glob("*.csv"))
    votes = sorted((path / "agg").glob("*_*.csv"))
    if label and (lists or not votes):
        raise UsageError("data.label", "fi has a choice of labels only with the votes in agg/.", do="Leave it out.")
    if lists:
        return _from_lists(path, lists, Finder(list_images(path, allow_outside=allow_outside)))
    if votes:
        finder = Finder(list_images(path, allow_outside=allow_outside))
        return _from_votes(path, votes, finder, rule=choose("fi", label, [*RULES]))
    return folders(folder_of(path, "emotion_dataset"), allow_outside=allow_outside, name="fi")


def _from_lists(path: Path, lists: Sequence[Path], finder: Finder) -> Table:
    """The images of the lists of splits; an image in two lists stays in the first."""
    entries: dict[str, Entry] = {}
    named = dict(part_files(path / "label", "*.csv"))
    unnamed = (printable(file.name) for file in lists if file not in named)
    counts = Counter(f"lists ignored: named after no split ({name})" for name in unnamed)
    for file, part in named.items():
        for row, (link, name) in read_columns(file, ("file_link", "emotion")):
            image_id = finder.find(link)
            if image_id is None:
                counts["images left out: listed, but not in the folder"] += 1
            elif entries.setdefault(image_id, Entry(image_id, emotion(name), part)).label != emotion(name):
                what = f"{image_id!r} has a different label on an earlier line."
                raise DataError(row.where, what, do="Keep one of them.")
    return assemble("fi", path, entries.values(), notes=(*finder.listing.notes, *counted(counts)))


def _from_votes(path: Path, files: Sequence[Path], finder: Finder, *, rule: str) -> Table:
    """The images, each with the emotion with the largest difference agree - disagree; tied ones are left out."""
    leads: dict[str, dict[str, float]] = defaultdict(dict)
    counts: Counter[str] = Counter()
    for file in files:
        for row in read_rows(file, delimiter=","):
            url, disagree, agree = _vote(row)
            image_id = finder.find(url.rsplit("/", 1)[-1])
            if not RULES[rule](disagree, agree):
                counts["votes left out: annotators disagree"] += 1
            elif image_id is None:
                counts["images left out: votes but no file"] += 1
            else:
                leads[image_id][emotion(file.stem.split("_")[0])] = agree - disagree
    best = {image_id: winners(own) for image_id, own in leads.items()}
    entries = [Entry(image_id, names[0]) for image_id, names in sorted(best.items()) if len(names) == 1]
    counts["images left out: two emotions tie"] = len(best) - len(entries)
    return assemble("fi", path, entries, notes=(f"votes: {rule}", *finder.listing.notes, *counted(counts)))


def _vote(row: Row) -> tuple[str, int, int]:
    """URL, disagree and agree of a row `_,url,disagree,agree`."""
    try:
        _, url, disagree, agree = map(str.strip, row.cells)
        return url, int(disagree), int(agree)
    except ValueError as error:
        right = "It must be number,url,disagree,agree."
        raise DataError(row.where, f"{','.join(row.cells)!r} is not a vote.", right=right) from error
