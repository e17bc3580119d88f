"""A photo of a gallery: what is kept of its explanation, and which streams are right about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from multistream.explaining.explanation import Explanation, entry_name

Outcome = Literal["all", "some", "none"]

CELLS = 56
"""Cells of a combined map's side: finer than the last stages of our streams."""
TOP = 8
"""Entries of a vector that are shown: those with the highest scores."""


@dataclass(frozen=True)
class GalleryPhoto:
    """One photo of a gallery: its explanation without arrays, and what is drawn.

    `maps` {key: (CELLS, CELLS)} are densities of all stages; `entries` {key: (name, score, contribution)} those of a
    vector with the highest scores.
    """

    explanation: Explanation
    image: Tensor | None
    aspect: float
    maps: Mapping[str, Tensor]
    entries: Mapping[str, Sequence[tuple[str, float, float]]]

    def has(self, name: str) -> bool:
        """Whether this class is a label of the photo."""
        return name in self.explanation.labels

    @property
    def outcome(self) -> Outcome:
        """How many of the streams are right by themselves."""
        right = [self.has(decision) for decision in self.explanation.decisions.values()]
        return "all" if all(right) else "some" if any(right) else "none"


def gallery_photo(explanation: Explanation, vocabularies: Mapping[str, Sequence[str]]) -> GalleryPhoto:
    """The parts of an explanation that a gallery shows."""
    arrays = explanation.arrays
    assert arrays is not None
    entries = {}
    for key, given in arrays.target_vectors.items():
        scores = arrays.inputs[key]
        top = scores.topk(min(TOP, len(scores))).indices.tolist()
        names = vocabularies.get(key, ())
        entries[key] = [(entry_name(names, i), float(scores[i]), float(given[i])) for i in top]
    maps = {key: combined(stages) for key, stages in arrays.target_maps.items()}
    return GalleryPhoto(replace(explanation, arrays=None), arrays.image, arrays.aspect, maps, entries)


def combined(stages: Mapping[str, Tensor]) -> Tensor:
    """A stream's maps {stage: (h, w)} as one (CELLS, CELLS): contribution by area, all stages added."""
    total = torch.zeros(CELLS, CELLS)
    for each in stages.values():
        dense = each.detach().float().cpu()[None, None] * each.numel()
        total += functional.interpolate(dense, (CELLS, CELLS), mode="bilinear", antialias=True)[0, 0]
    return total
