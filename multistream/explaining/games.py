"""Games of few players: exact Shapley values, Owen values, pairwise interactions.

A game of n players is a table of values, one row a coalition: row `mask` holds v(S) for S = {i : bit i of mask is set}.
Further dimensions (images, classes) go along. All is computed in the table's own precision; float64 is advised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, combinations
from math import comb

import torch
from torch import Tensor

MOST_PLAYERS = 14
"""2^14 coalitions: beyond, an exact answer costs more than anybody waits for."""


def coalitions(players: int) -> Tensor:
    """Every coalition of n players as a row of booleans, (2^n, n); row `mask` has bit i of `mask` in column i.

    >>> coalitions(2).tolist()
    [[False, False], [True, False], [False, True], [True, True]]
    """
    if players > MOST_PLAYERS:
        raise ValueError(
            f"{players} players make {2**players:,} coalitions. At most {MOST_PLAYERS} are computed exactly."
        )
    masks = torch.arange(2**players)
    return (masks[:, None] >> torch.arange(players)) & 1 == 1


def shapley(values: Tensor) -> Tensor:
    """Shapley values (n, ...) of a game (2^n, ...): each player's mean marginal value over all orders (Shapley 1953).

    They sum to v(all) - v(none).

    >>> shapley(torch.tensor([0.0, 1.0, 2.0, 4.0])).tolist()
    [1.5, 2.5]
    """
    players = _players(values)
    masks = torch.arange(2**players)
    sizes = coalitions(players).sum(1)
    shares = []
    for player in range(players):
        without = masks[masks >> player & 1 == 0]
        weights = _weights([1 / (players * comb(players - 1, s)) for s in range(players)], sizes[without], values)
        shares.append(((values[without | 1 << player] - values[without]) * weights).sum(0))
    return torch.stack(shares)


def interactions(values: Tensor) -> Tensor:
    """Shapley interaction index (n, n, ...) of every pair, 0 on the diagonal (Grabisch and Roubens 1999).

    Positive: the two give more together than the sum of what each gives alone.
    """
    players = _players(values)
    masks = torch.arange(2**players)
    sizes = coalitions(players).sum(1)
    index = values.new_zeros(players, players, *values.shape[1:])
    for i, j in combinations(range(players), 2):
        both = 1 << i | 1 << j
        without = masks[masks & both == 0]
        weights = _weights(
            [1 / ((players - 1) * comb(players - 2, s)) for s in range(players - 1)], sizes[without], values
        )
        change = values[without | both] - values[without | 1 << i] - values[without | 1 << j] + values[without]
        index[i, j] = index[j, i] = (change * weights).sum(0)
    return index


def owen(value: Callable[[Tensor], Tensor], groups: Sequence[int]) -> Tensor:
    """Owen values (n, ...) of players in groups: a group's values sum to its Shapley value among groups (Owen 1977).

    `groups` gives the number of players in each group, players counted group by group; `value` gets coalitions
    (M, n) as booleans and gives v (M, ...). Other groups are always whole or absent, so that few coalitions are needed:
    2^(groups - 1) x 2^(size of the group) for each.
    """
    starts = list(chain([0], torch.tensor(list(groups)).cumsum(0).tolist()))
    shares: list[Tensor] = []
    for place, size in enumerate(groups):
        others = coalitions(len(groups) - 1)
        inner = coalitions(size)
        rows = torch.zeros(len(others), len(inner), starts[-1], dtype=torch.bool)
        rows[:, :, starts[place] : starts[place + 1]] = inner
        for column, other in enumerate(g for g in range(len(groups)) if g != place):
            rows[:, :, starts[other] : starts[other + 1]] = others[:, None, column, None]
        table = value(rows.flatten(0, 1)).unflatten(0, (len(others), len(inner)))
        n = len(groups)
        weights = [1 / (n * comb(n - 1, s)) for s in range(n)]
        outer = _weights(weights, others.sum(1), table[:, 0])
        shares.append(shapley((table * outer.unsqueeze(1)).sum(0)))
    return torch.cat(shares)


def _players(values: Tensor) -> int:
    players = len(values).bit_length() - 1
    if len(values) != 2**players:
        raise ValueError(f"a table of {len(values)} rows is no game. It must have 2^n rows, one for each coalition.")
    return players


def _weights(by_size: Sequence[float], sizes: Tensor, like: Tensor) -> Tensor:
    """The weight of every coalition by its size, shaped to multiply `like`'s rows."""
    weights = torch.tensor(by_size, dtype=torch.float64)[sizes].to(like)
    return weights.view(-1, *[1] * (like.ndim - 1))
