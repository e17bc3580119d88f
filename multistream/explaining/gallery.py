"""Galleries: photos that all, some or none of the streams get right (paper fig. 5), and the mean map of each class."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from multistream.errors import DataError, UsageError, printable
from multistream.explaining.explanation import Explanation, entry_name
from multistream.explaining.overlays import AGAINST, FOR, blended, draw_bars, draw_scale, photo_pixels, short_name
from multistream.explaining.pipeline import Explainer
from multistream.figures import save_figure
from multistream.records import JsonRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Outcome = Literal["all", "some", "none"]
TITLES: dict[Outcome, str] = {"all": "All streams correct", "some": "Some streams correct", "none": "No stream correct"}
OUTCOMES: tuple[Outcome, ...] = tuple(TITLES)

CELLS = 56
"""Cells of a combined map's side: finer than the last stages of our streams."""
TOP = 8
"""Entries of a vector that are shown: those with the highest scores."""
RIGHT, WRONG = "#1b6e3c", "#a3201a"
LONGEST = 34
COLOURS = "Orange: for the class; blue: against it."


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

    @property
    def outcome(self) -> Outcome:
        """How many of the streams are right by themselves."""
        right = [decision == self.explanation.label for decision in self.explanation.decisions.values()]
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


class GalleryCollector:
    """Keeps a few photos of each outcome and the sums of all maps; memory does not grow with the number of photos.

    The photos with the smallest sha256 of their names are kept, in turn from each class: no manual selection, and it is
    the same each time.
    """

    def __init__(self, classes: Sequence[str], *, each: int = 6) -> None:
        self.classes, self.each = tuple(classes), each
        self.counts: dict[Outcome, int] = dict.fromkeys(OUTCOMES, 0)
        self.kept: dict[tuple[Outcome, str], list[tuple[str, GalleryPhoto]]] = {}
        self.sums: dict[str, dict[str, Tensor]] = {}
        self.numbers: dict[str, int] = {}

    def add(self, photo: GalleryPhoto) -> None:
        """Takes one photo in."""
        label = photo.explanation.label
        self.counts[photo.outcome] += 1
        digest = hashlib.sha256(photo.explanation.path.encode("utf-8", "surrogateescape")).hexdigest()
        kept = self.kept.setdefault((photo.outcome, label), [])
        kept.append((digest, photo))
        kept.sort(key=lambda pair: pair[0])
        del kept[self.each :]
        self.numbers[label] = self.numbers.get(label, 0) + 1
        for key, own in photo.maps.items():
            sums = self.sums.setdefault(key, {})
            sums[label] = sums.get(label, torch.zeros_like(own)) + own

    def examples(self, outcome: Outcome) -> list[GalleryPhoto]:
        """At most `each` photos, one class after the other in turn."""
        queues = [[photo for _, photo in self.kept.get((outcome, name), [])] for name in self.classes]
        turns = [queue[turn] for turn in range(self.each) for queue in queues if turn < len(queue)]
        return turns[: self.each]

    def differences(self) -> dict[str, dict[str, Tensor]]:
        """{key: {class: the mean map of its photos minus the mean over all photos}}, classes in their order."""
        made = {}
        for key, sums in self.sums.items():
            average = torch.stack(list(sums.values())).sum(0) / sum(self.numbers.values())
            made[key] = {name: sums[name] / self.numbers[name] - average for name in self.classes if name in sums}
        return made


@dataclass(frozen=True)
class Gallery(JsonRecord):
    """The files of `multistream gallery`, and in how many of `n` photos all, some or no streams are correct."""

    n: int
    left_out: int
    method: str
    outcomes: Mapping[Outcome, int]
    files: tuple[Path, ...]


def make_gallery(
    explainer: Explainer, folder: Path, *, kind: str = "png", tick: Callable[[int], None] = lambda _: None
) -> Gallery:
    """Explains the photos and writes the galleries. DataError where no photo could be read."""
    if explainer.model.network.label_sets:
        what = "galleries sort photos by which streams name their one label, and photos may have several here."
        raise UsageError("gallery", what)
    found, n = GalleryCollector(explainer.model.classes), 0
    for batch in explainer.batches():
        for record in explainer.records(batch).values():
            found.add(gallery_photo(record, explainer.vocabularies))
        n += len(batch.rows)
        tick(len(batch.rows))
    if not n:
        raise DataError("gallery", "no photo could be read.", do="multistream data scan says why.")
    method = explainer.request.method
    how = how_made(method, own_heads=bool(explainer.model.network.fusion.heads))
    files = write_galleries(found, folder, how=how, kind=kind)
    return Gallery(n, len(explainer.selection) - n, method, found.counts, tuple(files))


def how_made(method: str, *, own_heads: bool) -> str:
    """A sentence on the maps of a gallery, and on the decision of a single stream."""
    maps = "exact decomposition" if method == "decomposition" else "integrated gradients from the mean training image"
    by = "its own classifier's class" if own_heads else "the class of its largest Shapley value"
    return f"Attribution maps: {maps}, all stages, per unit of image area. {COLOURS} Decision of a stream: {by}."


def write_galleries(found: GalleryCollector, folder: Path, *, how: str, kind: str = "png") -> list[Path]:
    """Writes what there is: all-right, some-right, none-right, mean-maps, and one figure for each vector."""
    files = []
    for name, figure in _pages(found, how=how):
        files.append(folder / f"{name}.{kind}")
        save_figure(figure, files[-1], dpi=110)
    return files


def _pages(found: GalleryCollector, *, how: str) -> Iterator[tuple[str, Figure]]:
    total = sum(found.counts.values())
    examples = {outcome: photos for outcome in OUTCOMES if (photos := found.examples(outcome))}
    for outcome, photos in examples.items():
        title = f"{TITLES[outcome]}: {found.counts[outcome]:,} of {total:,} photos"
        yield f"{outcome}-right", draw_photos(photos, title=title, how=how)
    if differences := found.differences():
        yield "mean-maps", draw_means(differences, found.numbers)
    some = [photo for photos in examples.values() for photo in photos[:2]]
    taken = {"mean-maps", *(f"{outcome}-right" for outcome in examples)}
    for key in dict.fromkeys(chain.from_iterable(photo.entries for photo in some)):
        yield f"{key}-vector" if key in taken else key, draw_entries(some, key)


def draw_photos(photos: Sequence[GalleryPhoto], *, title: str, how: str) -> Figure:
    """A row for each photo: itself, then each stream's map for the class explained, on one scale for the photo."""
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
            f"label {_short(about.label)}, prediction {_short(about.predicted)}",
            *(f"{key}: {_short(about.decisions[key])}" for key in others),
        ]
        _draw(row[0], photo_pixels(photo.image, aspect=photo.aspect), "\n".join(words), "black")
        for axis, key in zip(row[1:], keys, strict=True):
            words = [f"{key}: {_short(about.decisions[key])}", f"map for {_short(about.target)}, full at {limit:.2g}"]
            color = RIGHT if about.decisions[key] == about.label else WRONG
            drawn = blended(photo.image, photo.maps[key], limit=limit, aspect=photo.aspect)
            _draw(axis, drawn, "\n".join(words), color)
    return figure


def draw_means(differences: Mapping[str, Mapping[str, Tensor]], numbers: Mapping[str, int]) -> Figure:
    """A row for each stream, a column for each class: how the class's mean map differs from that of all photos."""
    from matplotlib.figure import Figure

    classes = list(dict.fromkeys(name for maps in differences.values() for name in maps))
    figure = Figure(figsize=(1.6 * len(classes) + 1.5, 1.85 * len(differences) + 1.0), layout="constrained")
    how = "Mean attribution map of each class minus that of all photos; one colour scale per stream."
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
    """A vector's view (paper fig. 1): a photo, its highest scores, and what each of these entries contributes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 2.6 * len(photos) + 1.0), layout="constrained")
    how = f"The highest scores of each photo, and their contributions to the logit. {COLOURS}"
    _title(figure, f"Vector {key}", how)
    axes = figure.subplots(len(photos), 3, squeeze=False, width_ratios=[1, 1.25, 1.25])
    for (left, middle, right), photo in zip(axes, photos, strict=True):
        about = photo.explanation
        decision = f"{key}: {_short(about.decisions[key])}"
        words = f"{_short(short_name(about.path))}\nlabel {_short(about.label)}, {decision}"
        _draw(left, photo_pixels(photo.image, aspect=photo.aspect), words, "black")
        names, scores, given = (list(column) for column in zip(*photo.entries[key], strict=True))
        draw_bars(middle, [_short(name) for name in names], scores, colours=["#5a6b7b"] * len(scores))
        draw_bars(right, [""] * len(names), given, colours=[FOR if value > 0 else AGAINST for value in given])
        middle.set_title("score", fontsize=8, loc="left")
        right.set_title(f"contribution to {_short(about.target)}", fontsize=8, parse_math=False, loc="left")
    return figure


def _limit(maps: Sequence[Tensor]) -> float:
    """The density that gets the full colour: not the single largest cell, which would dim the rest."""
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


def _short(name: str) -> str:
    """A name on one line that fits; of a long one the end."""
    text = printable(name)
    return text if len(text) <= LONGEST else "…" + text[1 - LONGEST :]
