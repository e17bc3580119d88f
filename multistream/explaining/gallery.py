"""Galleries: photos that all, some or none of the streams get right (paper fig. 5), and the mean map of each class."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Outcome = Literal["all", "some", "none"]
OUTCOMES: tuple[Outcome, ...] = ("all", "some", "none")

SIDE = 56
"""Cells of a map's side that are kept: finer than the last stages of any stream here."""


@dataclass(frozen=True)
class Entry:
    """One entry of a vector: what it is, its score in the photo, what it gave to the class."""

    name: str
    score: float
    given: float


@dataclass(frozen=True)
class Shown:
    """One photo of a gallery with its label: `maps` {key: (SIDE, SIDE)} densities for the class `target`.

    `decisions` {key: class} is what each stream says by itself; `entries` {key: those of a vector to show}.
    """

    name: str
    label: str
    predicted: str
    target: str
    image: Tensor | None
    """uint8 (3, S, S), as the network saw it."""
    maps: Mapping[str, Tensor]
    decisions: Mapping[str, str]
    entries: Mapping[str, Sequence[Entry]] = field(default_factory=dict)

    @property
    def outcome(self) -> Outcome:
        """How many of the streams are right by themselves."""
        right = [decision == self.label for decision in self.decisions.values()]
        return "all" if all(right) else "some" if any(right) else "none"


def decisions_of(
    classes: Sequence[str], *, probabilities: Mapping[str, Tensor], shapley_KS: Tensor, keys: Sequence[str]
) -> dict[str, str]:
    """What each stream says by itself: its own classifier's first class, where the fusion has them (late, gated).

    Early fusion has none. There it is the class for which the stream's Shapley value is the largest: what it adds,
    to what the others have, speaks most for that class.
    """
    if probabilities:
        return {key: classes[int(own.argmax())] for key, own in probabilities.items()}
    return {key: classes[int(shapley_KS[:, place].argmax())] for place, key in enumerate(keys)}


def together(stages: Mapping[str, Tensor]) -> Tensor:
    """A stream's maps {stage: (h, w)} as one (SIDE, SIDE): evidence by area, and all stages add."""
    total = torch.zeros(SIDE, SIDE)
    for each in stages.values():
        dense = each.detach().float().cpu()[None, None] * each.numel()
        total += functional.interpolate(dense, (SIDE, SIDE), mode="bilinear", antialias=True)[0, 0]
    return total


class Collector:
    """Keeps a few photos of each outcome and the sums of all maps; memory does not grow with the photos.

    The photos are those whose names' sha256 come first, class by class in turn: no choice of ours, and the same
    whenever it is asked.
    """

    def __init__(self, classes: Sequence[str], *, each: int = 6) -> None:
        self.classes, self.each = tuple(classes), each
        self.counts: dict[Outcome, int] = dict.fromkeys(OUTCOMES, 0)
        self.kept: dict[tuple[Outcome, str], list[tuple[str, Shown]]] = {}
        self.sums: dict[str, dict[str, Tensor]] = {}
        self.numbers: dict[str, int] = {}

    def add(self, shown: Shown) -> None:
        """Takes one photo in."""
        self.counts[shown.outcome] += 1
        digest = hashlib.sha256(shown.name.encode("utf-8", "surrogateescape")).hexdigest()
        kept = self.kept.setdefault((shown.outcome, shown.label), [])
        kept.append((digest, shown))
        kept.sort(key=lambda pair: pair[0])
        del kept[self.each :]
        self.numbers[shown.label] = self.numbers.get(shown.label, 0) + 1
        for key, own in shown.maps.items():
            sums = self.sums.setdefault(key, {})
            sums[shown.label] = sums.get(shown.label, torch.zeros_like(own)) + own

    def examples(self, outcome: Outcome) -> list[Shown]:
        """At most `each` photos, one class after the other in turn."""
        queues = [[shown for _, shown in self.kept.get((outcome, name), [])] for name in self.classes]
        turns = [queue[turn] for turn in range(self.each) for queue in queues if turn < len(queue)]
        return turns[: self.each]

    def means(self) -> dict[str, dict[str, Tensor]]:
        """{key: {class: the mean map of its photos}}, classes in their order."""
        return {
            key: {name: sums[name] / self.numbers[name] for name in self.classes if name in sums}
            for key, sums in self.sums.items()
        }
