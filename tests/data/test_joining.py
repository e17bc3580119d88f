"""Which vector is an image's: by id, by path suffix, and never that of a photo in another folder."""

from __future__ import annotations

import numpy as np
import pytest

from multistream.data.table import VectorTable
from multistream.data.vectors.joining import join, match
from multistream.errors import DataError


@pytest.mark.parametrize(
    ("images", "names", "rows"),
    [
        (["joy/1.jpg", "awe/1.jpg"], ["awe/1.jpg", "joy/1.jpg"], [1, 0]),
        (["joy/1.jpg"], ["/home/x/set/joy/1.jpg"], [0]),
        (["set/joy/1.jpg"], ["joy/1.jpg", "awe/1.jpg"], [0]),
        (["images/joy/1.jpg", "images/awe/1.jpg"], ["set\\awe\\1.jpg", "set\\joy\\1.jpg"], [1, 0]),
        (["joy/1.jpg", "joy/2.jpg"], ["joy/1.jpg", "set/joy/2.jpg"], [0, 1]),
        (["1.jpg"], ["joy/1.jpg"], [0]),
        # What follows has no vector of its own: a test split of a file that covers a few photos of the whole set.
        (["anger/110.jpg"], ["disgust/110.jpg"], [-1]),
        (["anger/110.jpg", "joy/110.jpg", "joy/2.jpg"], ["disgust/110.jpg", "joy/2.jpg"], [-1, -1, 1]),
        (["train/joy/1.jpg", "train/joy/2.jpg"], ["val/joy/1.jpg", "train/joy/2.jpg"], [-1, 1]),
    ],
)
def test_an_image_takes_its_own_row(images: list[str], names: list[str], rows: list[int]) -> None:
    assert match(images, names, where="input.faces")[0].tolist() == rows


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (["joy/1.jpg"], ["a/joy/1.jpg", "b/joy/1.jpg"]),
        (["a/joy/1.jpg", "b/joy/1.jpg"], ["joy/1.jpg"]),
        (["a/joy/1.jpg", "b/joy/1.jpg"], ["c/joy/1.jpg"]),
    ],
)
def test_what_could_be_meant_in_several_ways_is_an_error(images: list[str], names: list[str]) -> None:
    with pytest.raises(DataError, match="can be joined in several ways"):
        match(images, names, where="input.faces")


def test_a_part_of_a_set_gets_the_vectors_that_it_has_in_the_whole_set() -> None:
    """A file for a few photos only: whatever part is asked for, a photo has its own vector or none."""
    ids = [f"{name}/{number}.jpg" for name in ("anger", "disgust", "joy") for number in range(40)]
    chance = np.random.default_rng(0)
    own = sorted(chance.choice(len(ids), 15, replace=False).tolist())
    vectors = VectorTable(tuple(ids[row] for row in own), np.float32([[row] for row in own]))
    whole = join(ids, vectors, missing="mean")
    for _ in range(20):
        part = chance.choice(len(ids), 60, replace=False).tolist()
        joined = join([ids[row] for row in part], vectors, missing="mean")
        assert np.array_equal(joined.present, whole.present[part])
        assert np.array_equal(joined.rows, whole.rows[part])
