"""Emotion6 (Peng et al., CVPR 2015): `images/<keyword>/N.jpg` and the votes in `ground_truth.txt`."""

from __future__ import annotations

import re
from pathlib import Path

from multistream.data.image_files import list_images
from multistream.data.layouts.assemble import Entry, assemble, choose, counted, folder_of
from multistream.data.layouts.delimited_text import read_rows
from multistream.data.layouts.votes import Votes, votes_of, winners
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
    by_keyword = chosen == "keyword"
    root = folder_of(path, "images")
    listing = list_images(root, allow_outside=allow_outside)
    votes = _votes(path / TRUTH)
    ids = [image_id for image_id in listing.ids if image_id in votes]
    best = {image_id: winners(votes[image_id]) for image_id in ids}
    counts = {
        f"images ignored: not in {TRUTH}": len(listing.ids) - len(ids),
        "tied votes go to the first of the tied classes": 0 if by_keyword else sum(len(b) > 1 for b in best.values()),
        f"images left out: missing files, of {len(votes):,} in {TRUTH}": len(votes) - len(ids),
    }
    if by_keyword:
        entries = [Entry(image_id, image_id.split("/")[0]) for image_id in ids]
    else:
        entries = [Entry(image_id, best[image_id][0], votes=votes[image_id]) for image_id in ids]
    notes = (f"label: {chosen}", *listing.notes, *counted(counts))
    known = next(iter(votes.values()), {}) if chosen == "votes" else ()
    return assemble("emotion6", root, entries, notes=notes, known=known)


def _votes(path: Path) -> dict[str, Votes]:
    """The votes of each image, in the file's order of classes."""
    rows = read_rows(path, delimiter="\t")
    header = [cell.strip() for cell in rows[0].cells] if rows else []
    names = [match[1] for cell in header if (match := _VOTE.fullmatch(cell))]
    if len(names) < 2:
        right = "The first line must be [image_filename] [valence] [arousal] [prob. anger] ..., with tabs."
        raise DataError(f"{path}:1", "this is not the ground truth file of Emotion6.", right=right)
    first = len(header) - len(names)
    return {row.cells[0].strip(): votes_of(row, row.cells[first:], names) for row in rows[1:]}
