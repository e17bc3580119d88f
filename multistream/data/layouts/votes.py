"""Votes of people for the classes of a photo, and the label that follows from them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from multistream.data.layouts.assemble import Entry, Finder, Votes, assemble, counted
from multistream.data.layouts.delimited_text import Row
from multistream.data.table import Table
from multistream.errors import DataError

LABELS = ("vote", "votes")
"""Values of `data.label` for layouts with votes: the class with the most votes, or the distribution."""


def votes_of(row: Row, cells: Sequence[str], classes: Sequence[str]) -> Votes:
    """The votes in `cells`, one number per class; DataError, with the line, if they are not valid."""
    right = f"There must be {len(classes)} numbers: {', '.join(classes)}."
    try:
        values = tuple(map(float, cells))
    except ValueError as error:
        raise DataError(row.where, f"the votes cannot be read: {error}.", right=right) from error
    if len(values) != len(classes):
        raise DataError(row.where, f"there are {len(values)} votes.", right=right)
    if not math.isfinite(sum(values)) or min(values) < 0 or not sum(values):
        raise DataError(row.where, f"the votes are {values}.", right="They must be 0 or more, and not all 0.")
    return dict(zip(classes, values, strict=True))


def winners(votes: Votes) -> list[str]:
    """The classes with the most votes: one, or several if they are tied."""
    most = max(votes.values())
    return [name for name, value in votes.items() if value == most]


def voted_table(
    name: str, votes: Iterable[tuple[str, Votes]], finder: Finder, *, label: str, classes: Sequence[str]
) -> Table:
    """The images with votes, each with the class with the most votes; `votes` has the names in a release's list.

    A tied image is left out if `label` is "vote"; if it is "votes", its label is the first of the tied classes.
    """
    entries: dict[str, Entry] = {}
    counts: Counter[str] = Counter()
    for listed, own in votes:
        best, image_id = winners(own), finder.find(listed)
        if image_id is None:
            counts["images left out: votes but no file"] += 1
        elif len(best) > 1 and label == "vote":
            counts["images left out: tied vote"] += 1
        elif entries.setdefault(image_id, Entry(image_id, best[0], votes=own)).label != best[0]:
            counts["later lines ignored: different label for the same image"] += 1
    notes = (*finder.listing.notes, *counted(counts))
    known = classes if label == "votes" else ()
    return assemble(name, finder.listing.root, entries.values(), notes=notes, known=known)
