# ruff: noqa: ARG001  the arguments are the interface's
from pathlib import Path

import numpy as np

from multistream.data.table import Table


def messy(path):
    raise KeyError("the column 'emotion'")


def unlabelled(path):
    """Two classes, and a label that is neither."""
    return Table("unlabelled", Path(path), ("a.png", "b.png"), np.array([0, 7]), ("awe", "fear"))
