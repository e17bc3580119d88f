"""From a recipe to a network: what the data tell of a stream, whose its parts are, and streams given as instances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from multistream import Image, Stream
from multistream.data.side_inputs import known_of_vectors
from multistream.data.table import Table, VectorTable
from multistream.errors import DataError, UsageError
from multistream.recipe import Recipe
from multistream.runs.composition import compose_network, with_distributions, with_instances
from multistream.spec import INSTANCE

SOUND = "object@multistream-faulty"


@pytest.fixture
def table(tmp_path: Path) -> Table:
    vectors = {"changing_vector": VectorTable(("a.png",), np.ones((1, 6), np.float32), tuple("abcdef"))}
    return Table("two", tmp_path, ("a.png", "b.png"), np.array([0, 1]), ("awe", "fear"), vectors=vectors)


def test_a_width_alone_makes_no_vector_stream(installed, table: Table) -> None:
    """An image stream whose option is called `width` needs no file of vectors."""
    installed("faulty")
    known = known_of_vectors({"one": SOUND, "two": "changing_vector"}, table, {})
    assert known == {"two": {"width": 6, "vocabulary": tuple("abcdef")}}
    assert compose_network(Recipe().updated({"network": {"streams": {"one": SOUND}}}), table, streams=None)


def test_a_vector_stream_still_asks_for_its_vectors(table: Table) -> None:
    with pytest.raises(DataError, match="this stream needs vectors, but none were given"):
        known_of_vectors({"anp": "anp"}, table, {})


class Toy(Stream):
    def __init__(self) -> None:
        super().__init__({"only": nn.Conv2d(3, 4, 3)}, channels={"only": 4}, input=Image(size=8))


def test_a_recipe_remembers_an_instance(table: Table) -> None:
    """Before, it did not mention it, and repeating the run trained another network."""
    given = {"toy": Toy()}
    recipe = with_instances(Recipe().updated({"network": {"streams": {"object": "object"}}}), given)
    assert recipe.network.streams == {"object": "object", "toy": INSTANCE}
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert list(compose_network(recipe, table, streams=given).branches) == ["object", "toy"]
    with pytest.raises(UsageError, match=r"'toy' was given as a Python object.*streams=\{'toy': \.\.\.\}"):
        compose_network(recipe, table, streams=None)
    with pytest.raises(UsageError, match=r"toy was given as a Python object.*streams=\{'toy': \.\.\.\}"):
        with_instances(recipe, {})


def test_a_recipe_remembers_whose_a_strangers_part_is(installed) -> None:
    installed("faulty")
    network = with_distributions(
        Recipe().updated({"network": {"streams": {"a": "object"}, "tap": "wide_pool:x"}})
    ).network
    assert (network.streams, network.tap) == ({"a": "object"}, "wide_pool:x@multistream-faulty")
