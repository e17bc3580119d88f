"""Spearman's rank correlation of maps: do two explanations put the pixels in one order?"""

from __future__ import annotations

import torch
from torch import Tensor


def ranks(values_BN: Tensor) -> Tensor:
    """The rank of every value in its row, (B, N) float64 from 0; equal values share the mean of theirs.

    >>> ranks(torch.tensor([[0.3, 0.1, 0.3, 0.9]])).tolist()
    [[1.5, 0.0, 1.5, 3.0]]
    """
    ordered, order = values_BN.sort(dim=1)
    # The rows are sorted, so that a value's first and last place are two binary searches.
    first = torch.searchsorted(ordered.contiguous(), ordered.contiguous())
    last = torch.searchsorted(ordered.contiguous(), ordered.contiguous(), right=True) - 1
    shared = (first + last).double() / 2
    return torch.empty_like(shared).scatter_(1, order, shared)


def spearman(first_BN: Tensor, second_BN: Tensor) -> Tensor:
    """Rank correlation (B,) float64 of two maps' values, row by row; NaN where all values of a map are equal.

    >>> spearman(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[9.0, 10.0, 99.0]])).tolist()
    [1.0]
    """
    one, other = (ranks(x.flatten(1)) for x in (first_BN, second_BN))
    one, other = one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True)
    return (one * other).sum(1) / (one.square().sum(1) * other.square().sum(1)).sqrt()
