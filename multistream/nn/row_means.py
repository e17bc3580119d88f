"""Means over the rows of a large tensor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ROWS = 8192
"""Rows that are converted to float64 at once: of all of a million photos they would take more than the features."""


def mean_of_rows(rows_NP: Tensor, function: Callable[[Tensor], Tensor] = lambda rows: rows) -> Tensor:
    """The mean (P,) of what `function` makes of the rows (N, P), N > 0, in float64.

    20,000 rows of float32 lose digits that a dead channel's test needs.

    >>> mean_of_rows(torch.tensor([[1.0], [3.0]]), torch.square).tolist()
    [5.0]
    """
    sums = [function(rows.double()).sum(0) for rows in rows_NP.split(ROWS)]
    return torch.stack(sums).sum(0) / len(rows_NP)
