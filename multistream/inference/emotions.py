"""Emotions by name: their polarity, and maps between the classes of data sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from multistream.data.layouts.webemo import SEVEN, at_level

NEGATIVE = frozenset(("anger", "confusion", "disgust", "fear", "negative", "sadness"))
POSITIVE = frozenset(
    # WebEMO has surprise as positive.
    ("amusement", "awe", "contentment", "excitement", "joy", "love", "positive", "surprise")
)

_FI_TO_WEBEMO = {
    "amusement": "joy",
    "contentment": "joy",
    "excitement": "joy",
    "awe": "surprise",
    "anger": "anger",
    "disgust": "anger",
    "fear": "fear",
    "sadness": "sadness",
}
_WEBEMO = [fine for group in SEVEN.values() for fine in group]

SHIPPED: Mapping[str, Mapping[str, str]] = {
    "fi-webemo7": _FI_TO_WEBEMO,
    "fi-webemo7-awe-joy": {**_FI_TO_WEBEMO, "awe": "joy"},
    "fi-polarity": {name: "positive" if name in POSITIVE else "negative" for name in _FI_TO_WEBEMO},
    "webemo25-webemo7": {fine: at_level(fine, "7") for fine in _WEBEMO},
    "webemo25-polarity": {fine: at_level(fine, "2") for fine in _WEBEMO},
    "webemo7-polarity": {coarse: at_level(group[0], "2") for coarse, group in SEVEN.items()},
}
"""Class maps by name (paper section 4). Awe is mapped to surprise or to joy, so that both can be reported."""


def polarities(classes: Iterable[str]) -> tuple[bool, ...] | None:
    """Returns whether each class is a positive emotion; None if the polarity of a class is unknown.

    >>> polarities(["awe", "fear"]), polarities(["awe", "car"])
    ((True, False), None)
    """
    names = [name.strip().lower() for name in classes]
    is_known = set(names) <= POSITIVE | NEGATIVE
    return tuple(name in POSITIVE for name in names) if is_known else None
