"""The photos of a gallery, and its figures: photos with maps, most probable photos, mean maps, and vector entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from multistream.errors import printable
from multistream.explaining.explanation import Explanation, entry_name
from multistream.explaining.overlays import AGAINST, FOR, blended, draw_bars, draw_scale, photo_pixels, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
    for key, contributions in arrays.target_vectors.items():
        scores = arrays.inputs[key]
        top = scores.topk(min(TOP, len(scores))).indices.tolist()
        names = vocabularies.get(key, ())
        entries[key] = [(entry_name(names, i), float(scores[i]), float(contributions[i])) for i in top]
    maps = {key: combined(stages) for key, stages in arrays.target_maps.items()}
    return GalleryPhoto(replace(explanation, arrays=None), arrays.image, arrays.aspect, maps, entries)


def combined(stages: Mapping[str, Tensor]) -> Tensor:
    """Adds a stream's maps {stage: (h, w)} into one (CELLS, CELLS) map of contributions per unit of area."""
    total = torch.zeros(CELLS, CELLS)
    for stage_map in stages.values():
        dense = stage_map.detach().float().cpu()[None, None] * stage_map.numel()
        total += functional.interpolate(dense, (CELLS, CELLS), mode="bilinear", antialias=True)[0, 0]
    return total


RIGHT, WRONG = "#1b6e3c", "#a3201a"
LONGEST, NARROW = 34, 24
"""The number of characters of a name that fit above a photo."""
CLASSES_PER_PAGE = 10
COLOURS = "Orange: for the class; blue: against it."


def draw_photos(photos: Sequence[GalleryPhoto], *, title: str, how: str) -> Figure:
    """Draws one row per photo: the photo, then each stream's map for the explained class, on one scale per row."""
    from matplotlib.figure import Figure

    keys = list(photos[0].maps)
    others = [key for key in photos[0].explanation.decisions if key not in keys]
    columns = 1 + len(keys)
    figure = Figure(figsize=(2.6 * columns + 0.4, 2.75 * len(photos) + 1.0), layout="constrained")
    _title(figure, title, how)
    axes = figure.subplots(len(photos), columns, squeeze=False)
    for row, photo in zip(axes, photos, strict=True):
        limit, about = _limit(list(photo.maps.values())), photo.explanation
        words = [
            _short(short_name(about.path)),
            f"label {_short(about.label)}",
            f"most probable {_short(about.predicted)}",
            *(f"{key}: {_short(about.decisions[key])}" for key in others),
        ]
        _draw(row[0], photo_pixels(photo.image, aspect=photo.aspect), "\n".join(words), "black")
        for axis, key in zip(row[1:], keys, strict=True):
            words = [f"{key}: {_short(about.decisions[key])}", f"map for {_short(about.target)}, full at {limit:.2g}"]
            color = RIGHT if photo.has(about.decisions[key]) else WRONG
            overlay = blended(photo.image, photo.maps[key], limit=limit, aspect=photo.aspect)
            _draw(axis, overlay, "\n".join(words), color)
    return figure


def draw_classes(by_class: Mapping[str, Sequence[GalleryPhoto]], *, total: int) -> Figure:
    """Draws one row per class: its most probable photos, each with the streams' maps for that class on one scale."""
    from matplotlib.figure import Figure

    most = max(by_class.values(), key=len)
    keys = list(most[0].maps)
    columns = len(most) * (1 + len(keys))
    figure = Figure(figsize=(1.75 * columns + 0.6, 2.1 * len(by_class) + 1.0), layout="constrained")
    how = f"Green: the photo has this label; red: it has not. Maps: for the class of the row. {COLOURS}"
    _title(figure, f"Photos with the highest probability of each class, among {total:,}", how)
    axes = figure.subplots(len(by_class), columns, squeeze=False)
    for row, (name, photos) in zip(axes, by_class.items(), strict=True):
        cells = iter(row)
        for photo in photos:
            about, limit = photo.explanation, _limit(list(photo.maps.values()))
            words = f"{about.probability:.3f}\nlabel {_short(about.label, longest=NARROW)}"
            color = RIGHT if photo.has(name) else WRONG
            _draw(next(cells), photo_pixels(photo.image, aspect=photo.aspect), words, color)
            for key in keys:
                overlay = blended(photo.image, photo.maps[key], limit=limit, aspect=photo.aspect)
                _draw(next(cells), overlay, key, "black")
        row[0].set_ylabel(_short(name), fontsize=9, parse_math=False)
        for empty in cells:
            empty.set_axis_off()
    return figure


def draw_means(differences: Mapping[str, Mapping[str, Tensor]], numbers: Mapping[str, int]) -> Figure:
    """Draws the class's mean map minus that of all photos, one row per stream and one column per class."""
    from matplotlib.figure import Figure

    classes = list(dict.fromkeys(name for maps in differences.values() for name in maps))
    figure = Figure(figsize=(1.6 * len(classes) + 1.5, 1.85 * len(differences) + 1.0), layout="constrained")
    how = "Mean attribution map of the photos with each label minus that of all photos; one colour scale per stream."
    _title(figure, "Mean attribution maps by label", how)
    axes = figure.subplots(len(differences), len(classes), squeeze=False)
    for place, (row, (key, maps)) in enumerate(zip(axes, differences.items(), strict=True)):
        limit = _limit(list(maps.values()))
        for axis, name in zip(row, classes, strict=True):
            words = "" if place else f"{_short(name)} ({numbers[name]:,})"
            _draw(axis, blended(None, maps[name], limit=limit), words, "black")
        row[0].set_ylabel(key, fontsize=9)
        draw_scale(figure, list(row), limit=limit, label="logit density")
    return figure


def draw_entries(photos: Sequence[GalleryPhoto], key: str) -> Figure:
    """Draws a vector's entries (paper fig. 1): the photo, its highest scores, and their contributions."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 2.6 * len(photos) + 1.0), layout="constrained")
    how = f"The highest scores of each photo, and their contributions to the logit. {COLOURS}"
    _title(figure, f"Vector {key}", how)
    axes = figure.subplots(len(photos), 3, squeeze=False, width_ratios=[1, 1.25, 1.25])
    for (left, middle, right), photo in zip(axes, photos, strict=True):
        about = photo.explanation
        words = f"{_short(short_name(about.path))}\nlabel {_short(about.label)}\n{key}: {_short(about.decisions[key])}"
        _draw(left, photo_pixels(photo.image, aspect=photo.aspect), words, "black")
        names, scores, contributions = (list(column) for column in zip(*photo.entries[key], strict=True))
        draw_bars(middle, [_short(name) for name in names], scores, colours=["#5a6b7b"] * len(scores))
        draw_bars(
            right, [""] * len(names), contributions, colours=[FOR if value > 0 else AGAINST for value in contributions]
        )
        middle.set_title("score", fontsize=8, loc="left")
        right.set_title(f"contribution to {_short(about.target)}", fontsize=8, parse_math=False, loc="left")
    return figure


def _limit(maps: Sequence[Tensor]) -> float:
    """Returns the density that gets the full colour: a high quantile, since the largest cell would dim all others."""
    return max((float(m.abs().flatten().quantile(0.995)) for m in maps), default=0.0) or 1.0


def _draw(axis: Axes, picture: Any, words: str, color: str) -> None:
    axis.imshow(picture)
    axis.set_xticks([])
    axis.set_yticks([])
    for edge in axis.spines.values():
        edge.set_visible(False)
    axis.set_title(words, fontsize=8, color=color, parse_math=False, loc="left")


def _title(figure: Figure, title: str, how: str) -> None:
    figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left", parse_math=False)
    figure.supxlabel(how, fontsize=7.5, x=0.01, ha="left", color="0.35", parse_math=False, wrap=True)


def _short(name: str, *, longest: int = LONGEST) -> str:
    """Shortens a name to one line; keeps the end of a long name."""
    text = printable(name)
    return text if len(text) <= longest else "…" + text[1 - longest :]
