"""Arguments of compose that are wrong cost one clear line."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from multistream import compose, streams
from multistream.errors import UsageError


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["awe", "awe"], "'awe' occurs twice"),
        ("abc", "'abc' is one text"),
        ([1, 2], "1 is not a name"),
        (["awe", ""], "'' is not a name"),
        ([], "none is given"),
        (3, "3 was given"),
    ],
)
def test_classes_are_different_names(classes: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compose(["object"], classes=classes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"mine": nn.Sequential(nn.Conv2d(3, 8, 3))},
            r"streams.mine: a Sequential was given.*Name its blocks as stages",
        ),
        ({"mine": nn.Conv2d}, "a type was given"),
        ({"mine": None}, "a NoneType was given"),
        ([nn.Conv2d(3, 8, 3)], "a Conv2d was given"),
        ([streams["anp"](width=4)], "Give it a key"),
    ],
)
def test_a_stream_is_a_spec_or_a_stream(given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compose(given, classes=["awe", "fear"])


def test_weights_are_named_and_not_given() -> None:
    with pytest.raises(UsageError, match=r"weights.object: a dict was given\. It must be a file, a run, hub or random"):
        compose(["object"], classes=["awe", "fear"], weights={"object": {}})  # type: ignore[dict-item]
