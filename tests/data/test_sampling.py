"""Chance as a function of a seed, an epoch and an index."""

from __future__ import annotations

import numpy as np

from multistream.data.sampling import flips, order


def test_order_is_a_function_of_seed_and_epoch() -> None:
    base = order(1000, seed=3, epoch=1)
    assert sorted(base.tolist()) == list(range(1000))
    assert np.array_equal(base, order(1000, seed=3, epoch=1))
    for other in (order(1000, seed=4, epoch=1), order(1000, seed=3, epoch=2), np.arange(1000)):
        assert (base == other).mean() < 0.02
    assert order(0, seed=0, epoch=0).shape == (0,)


def test_orders_are_fair() -> None:
    firsts = np.bincount([order(8, seed=s, epoch=e)[0] for s in range(40) for e in range(40)], minlength=8)
    assert firsts.min() > 130  # of 200 expected; five deviations below are 134
    assert firsts.max() < 270


def test_flips_are_functions_of_seed_epoch_and_index() -> None:
    chosen = flips(np.arange(4000), seed=1, epoch=2, axis="horizontal")
    assert np.array_equal(chosen[::-1], flips(np.arange(4000)[::-1], seed=1, epoch=2, axis="horizontal"))
    assert abs(chosen.mean() - 0.5) < 0.04
    others = [
        flips(np.arange(4000), seed=s, epoch=e, axis=a)
        for s, e, a in ((2, 2, "horizontal"), (1, 3, "horizontal"), (1, 2, "vertical"))
    ]
    assert all(abs((chosen == other).mean() - 0.5) < 0.04 for other in others)


def test_chance_of_today_is_chance_of_tomorrow() -> None:
    assert order(10, seed=0, epoch=0).tolist() == [1, 4, 2, 6, 9, 8, 5, 7, 3, 0]
    assert flips(np.arange(16), seed=0, epoch=0, axis="horizontal").astype(int).tolist() == [
        0,
        0,
        0,
        0,
        1,
        1,
        1,
        1,
        0,
        0,
        0,
        1,
        1,
        0,
        0,
        1,
    ]
