"""Emotion6 (Peng et al., CVPR 2015): `images/<keyword>/N.jpg` and the votes in `ground_truth.txt`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from multistream.data.image_files import list_images
from multistream.data.layouts.assemble import Entry, Votes, assemble, choose, counted, folder_of
from multistream.data.layouts.delimited_text import read_table
from multistream.data.layouts.votes import votes_of, winners
from multistream.data.table import Table
from multistream.errors import DataError

LABELS = ("vote", "votes", "keyword")
TRUTH = "ground_truth.txt"
_VOTE = re.compile(r"\[prob\. (\w+)\]")


def emotion6(path: Path, *, label: str = "", allow_outside: bool = False) -> Table:
    """Emotion6: the label is the class with the most votes (seven classes, with neutral).

    With `label="keyword"` it is the search term instead; the two differ for half of the images (1,008 of 1,980 agree).
    A tied vote goes to the first column, as in argmax. With `label="votes"` the training targets are the distributions
    of votes.
    """
    chosen = choose("emotion6", label, LABELS)
    root = folder_of(path, "images")
    listing = list_images(root, allow_outside=allow_outside)
    classes, votes = _votes(path / TRUTH)
    voted = {image_id: votes[image_id] for image_id in listing.ids if image_id in votes}
    if chosen == "keyword":
        entries, tied = [Entry(image_id, image_id.split("/")[0]) for image_id in voted], 0
    else:
        entries = [Entry(image_id, winners(own)[0], votes=own) for image_id, own in voted.items()]
        tied = sum(len(winners(own)) > 1 for own in voted.values())
    counts = {
        f"images ignored: not in {TRUTH}": len(listing.ids) - len(voted),
        "tied votes go to the first of the tied classes": tied,
        f"images left out: missing files, of {len(votes):,} in {TRUTH}": len(votes) - len(voted),
    }
    notes = (f"label: {chosen}", *listing.notes, *counted(counts))
    return assemble("emotion6", root, entries, notes=notes, known=classes if chosen == "votes" else ())


def _votes(path: Path) -> tuple[Sequence[str], dict[str, Votes]]:
    """The classes in the file's order, and the votes of each image."""
    header, rows = read_table(path, delimiter="\t")
    classes = [match[1] for cell in header.cells if (match := _VOTE.fullmatch(cell))]
    if len(classes) < 2:
        right = "The first line must be [image_filename] [valence] [arousal] [prob. anger] ..., with tabs."
        raise DataError(f"{path}:1", "this is not the ground truth file of Emotion6.", right=right)
    first = len(header.cells) - len(classes)
    return classes, {row.cells[0].strip(): votes_of(row, row.cells[first:], classes) for row in rows}
