"""Emotion6 (Peng et al., CVPR 2015): `images/<keyword>/N.jpg` and the votes in `ground_truth.txt`."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from multistream.data.image_files import list_images
from multistream.data.layouts.assemble import Entry, assemble, choose, counted, folder_of
from multistream.data.layouts.delimited_text import read_rows
from multistream.data.layouts.votes import shares, winners
from multistream.data.table import Table
from multistream.errors import DataError

LABELS = ("vote", "votes", "keyword")
TRUTH = "ground_truth.txt"
_VOTE = re.compile(r"\[prob\. (\w+)\]")


def emotion6(path: Path, *, label: str = "", allow_outside: bool = False) -> Table:
    """Emotion6 with the class that won the vote (seven, with neutral), or with `label="keyword"` the one searched for.

    They differ in half of the images (1,008 of 1,980 agree). A tied vote goes to the first column, as argmax has it.
    With `label="votes"` training has the distribution of the votes as its target.
    """
    chosen = choose("emotion6", label, LABELS)
    root = folder_of(path, "images")
    listing = list_images(root, allow_outside=allow_outside)
    votes = _votes(path / TRUTH)
    entries = []
    counts: Counter[str] = Counter()
    for image_id in listing.ids:
        if image_id not in votes:
            counts[f"images ignored: not in {TRUTH}"] += 1
            continue
        if chosen == "keyword":
            entries.append(Entry(image_id, image_id.split("/")[0]))
            continue
        own = votes[image_id]
        best = winners([*own.values()], [*own])
        if len(best) > 1:
            counts["tied votes go to the first of the tied classes"] += 1
        entries.append(Entry(image_id, best[0], votes=own))
    counts[f"images left out: missing files, of {len(votes):,} in {TRUTH}"] = len(set(votes) - set(listing.ids))
    notes = (f"label: {chosen}", *listing.notes, *counted(counts))
    known = next(iter(votes.values()), {}) if chosen == "votes" else ()
    return assemble("emotion6", root, entries, notes=notes, known=known)


def _votes(path: Path) -> dict[str, dict[str, float]]:
    """The votes of each image, in the file's order of classes."""
    rows = read_rows(path, delimiter="\t")
    names = [match[1] for cell in rows[0].cells if (match := _VOTE.fullmatch(cell.strip()))] if rows else []
    if len(names) < 2:
        right = "The first line must be [image_filename] [valence] [arousal] [prob. anger] ..., with tabs."
        raise DataError(f"{path}:1", "this is not the ground truth file of Emotion6.", right=right)
    first = len(rows[0].cells) - len(names)
    return {
        row.cells[0].strip(): dict(zip(names, shares(path, row, row.cells[first:], classes=names), strict=True))
        for row in rows[1:]
    }
