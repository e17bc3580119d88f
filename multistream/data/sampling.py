"""Random numbers as a function of seed, epoch and an image's index, so that no generator state needs saving.

The generators of NumPy and torch may change between versions; these 64 bits do not.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def draws(indices: ArrayLike, *, seed: int, epoch: int, purpose: str) -> NDArray[np.uint64]:
    """64 random bits for each index, independent between purposes (the finaliser of SplitMix64, Steele et al. 2014)."""
    key = hashlib.blake2b(f"{purpose}/{seed}/{epoch}".encode(), digest_size=8).digest()
    state = np.asarray(indices).astype(np.uint64) * _GOLDEN ^ np.frombuffer(key, dtype="<u8")[0]
    for factor, shift in ((_FIRST, 30), (_SECOND, 27)):
        state = (state ^ (state >> np.uint64(shift))) * factor
    mixed: NDArray[np.uint64] = state ^ (state >> np.uint64(31))
    return mixed


def order(n: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of n images in epoch number `epoch`: a permutation (n,) of 0..n-1.

    >>> order(5, seed=0, epoch=0).tolist() == order(5, seed=0, epoch=0).tolist()
    True
    """
    return np.argsort(draws(np.arange(n), seed=seed, epoch=epoch, purpose="order"), kind="stable").astype(np.int64)


def flips(indices: ArrayLike, *, seed: int, epoch: int, axis: str) -> NDArray[np.bool_]:
    """Whether each image is flipped along `axis` ("horizontal" or "vertical") in this epoch: True for half of them."""
    return (draws(indices, seed=seed, epoch=epoch, purpose=f"flip {axis}") & np.uint64(1)).astype(bool)
