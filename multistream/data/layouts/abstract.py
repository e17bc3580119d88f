"""Abstract (Machajdik and Hanbury, ACM MM 2010): paintings with votes in `ABSTRACT_groundTruth.csv`."""

from __future__ import annotations

from pathlib import Path

from multistream.data.image_files import list_images
from multistream.data.layouts.assemble import Finder, choose, emotion, folder_of
from multistream.data.layouts.delimited_text import read_table
from multistream.data.layouts.votes import LABELS, voted_table, votes_of
from multistream.data.table import Table
from multistream.errors import DataError

TRUTH = "ABSTRACT_groundTruth.csv"


def abstract(path: Path, *, label: str = "", allow_outside: bool = False) -> Table:
    """Abstract: each painting has the emotion with the most votes; tied ones are left out. Names are in quotes.

    With `label="votes"` the training targets are the distributions of votes, and tied paintings are kept: their label
    is the first of the tied emotions.
    """
    chosen = choose("abstract", label, LABELS)
    root = folder_of(path, "testImages_abstract")
    file = root / TRUTH if (root / TRUTH).is_file() else path / TRUTH
    header, rows = read_table(file)
    classes = [*map(emotion, header.cells[1:])]
    if len(classes) < 2 or "" in classes or any(map(str.isdigit, classes)):
        right = "The first line must name the columns: the image, then the emotions."
        raise DataError(f"{file}:1", "the first line names no emotions.", right=right)
    votes = ((row.cells[0].strip().strip("'\""), votes_of(row, row.cells[1:], classes)) for row in rows)
    finder = Finder(list_images(root, allow_outside=allow_outside))
    return voted_table("abstract", votes, finder, label=chosen, classes=classes)
