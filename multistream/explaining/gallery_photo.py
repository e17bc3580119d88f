"""A photo of a gallery: the drawn part of its explanation, and whether all, some or no streams are correct."""

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
"""Cells of a combined map's side: finer than the last stages of the built-in streams."""
TOP = 8
"""The number of vector entries drawn: those with the highest scores."""


@dataclass(frozen=True)
class GalleryPhoto:
    """One photo of a gallery: its explanation without arrays, and the drawn maps and entries.

    `maps` {key: (CELLS, CELLS)} are densities summed over all stages. `entries` {key: [(name, score, contribution)]}
    are the vector entries with the highest scores.
    """

    explanation: Explanation
    image: Tensor | None
    aspect: float
    maps: Mapping[str, Tensor]
    entries: Mapping[str, Sequence[tuple[str, float, float]]]

    def has(self, name: str) -> bool:
        """Returns whether the class `name` is a label of the photo."""
        return name in self.explanation.labels

    @property
    def outcome(self) -> Outcome:
        """Whether all, some or none of the streams alone are correct."""
        right = [self.has(decision) for decision in self.explanation.decisions.values()]
        return "all" if all(right) else "some" if any(right) else "none"


def gallery_photo(explanation: Explanation, vocabularies: Mapping[str, Sequence[str]]) -> GalleryPhoto:
    """Extracts the parts of an explanation that a gallery shows."""
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
    """Adds a stream's maps {stage: (h, w)} into one (CELLS, CELLS) map of contributions per unit of area."""
    total = torch.zeros(CELLS, CELLS)
    for each in stages.values():
        dense = each.detach().float().cpu()[None, None] * each.numel()
        total += functional.interpolate(dense, (CELLS, CELLS), mode="bilinear", antialias=True)[0, 0]
    return total
