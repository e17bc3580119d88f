"""Galleries: photos that all, some or no streams classify correctly (paper fig. 5), the most probable photos of each
class, and the mean map of each class."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from multistream.errors import DataError
from multistream.explaining.gallery_figures import (
    CLASSES_PER_PAGE,
    COLOURS,
    GalleryPhoto,
    Outcome,
    draw_classes,
    draw_entries,
    draw_means,
    draw_photos,
    gallery_photo,
)
from multistream.explaining.pipeline import Explainer
from multistream.explaining.targets import Target
from multistream.figures import save_figure
from multistream.records import JsonRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES: dict[Outcome, str] = {"all": "All streams correct", "some": "Some streams correct", "none": "No stream correct"}
OUTCOMES: tuple[Outcome, ...] = tuple(TITLES)


class GalleryCollector:
    """Collects `each` photos of every outcome and the sums of all maps, in constant memory.

    It keeps the photos with the smallest sha256 of their names, in turn from each class: the selection is not manual
    and is reproducible. A photo counts for each of its labels.
    """

    def __init__(self, classes: Sequence[str], *, each: int = 6) -> None:
        self.classes, self.each = tuple(classes), each
        self.counts: dict[Outcome, int] = dict.fromkeys(OUTCOMES, 0)
        self.kept: dict[tuple[Outcome, str], list[tuple[str, GalleryPhoto]]] = {}
        self.sums: dict[str, dict[str, Tensor]] = {}
        self.totals: dict[str, Tensor] = {}
        self.numbers: dict[str, int] = {}

    def add(self, photo: GalleryPhoto) -> None:
        """Adds one photo."""
        self.counts[photo.outcome] += 1
        for key, density in photo.maps.items():
            self.totals[key] = self.totals.get(key, torch.zeros_like(density)) + density
        for label in photo.explanation.labels:
            self._add_to(label, photo)

    def _add_to(self, label: str, photo: GalleryPhoto) -> None:
        digest = hashlib.sha256(photo.explanation.path.encode("utf-8", "surrogateescape")).hexdigest()
        kept = self.kept.setdefault((photo.outcome, label), [])
        kept.append((digest, photo))
        kept.sort(key=lambda pair: pair[0])
        del kept[self.each :]
        self.numbers[label] = self.numbers.get(label, 0) + 1
        for key, density in photo.maps.items():
            sums = self.sums.setdefault(key, {})
            sums[label] = sums.get(label, torch.zeros_like(density)) + density

    def examples(self, outcome: Outcome) -> list[GalleryPhoto]:
        """Returns at most `each` photos of an outcome, taken from the classes in turn."""
        queues = [[photo for _, photo in self.kept.get((outcome, name), [])] for name in self.classes]
        turns = [queue[turn] for turn in range(self.each) for queue in queues if turn < len(queue)]
        return list({photo.explanation.path: photo for photo in turns}.values())[: self.each]

    def differences(self) -> dict[str, dict[str, Tensor]]:
        """Returns {key: {class: the mean map of its photos minus the mean map of all photos}}, in class order."""
        differences = {}
        for key, sums in self.sums.items():
            average = self.totals[key] / sum(self.counts.values())
            differences[key] = {
                name: sums[name] / self.numbers[name] - average for name in self.classes if name in sums
            }
        return differences


class MostProbable:
    """The rows of the `each` photos with the highest probability of each class, updated batch by batch."""

    def __init__(self, classes: Sequence[str], *, each: int = 3) -> None:
        self.classes, self.each = tuple(classes), each
        self.probabilities = torch.zeros(0, len(self.classes), dtype=torch.float64)
        self.places = torch.zeros(0, len(self.classes), dtype=torch.int64)

    def add(self, places: Sequence[int], probabilities_BK: Tensor) -> None:
        """Adds a batch; of photos with equal probabilities the first ranks higher."""
        rows = torch.tensor(places)[:, None].expand(-1, len(self.classes))
        probabilities = torch.cat([self.probabilities, probabilities_BK.cpu()])
        order = probabilities.argsort(dim=0, descending=True, stable=True)[: self.each]
        self.probabilities = probabilities.gather(0, order)
        self.places = torch.cat([self.places, rows]).gather(0, order)

    def photos(self, explainer: Explainer) -> dict[str, list[GalleryPhoto]]:
        """Returns {class: its photos, the most probable first}, each explained for that class."""
        by_class = {}
        for name, places in zip(self.classes, self.places.T.tolist(), strict=True):
            about = explainer.towards(Target(name))
            records = {row: record for batch in about.batches(places) for row, record in about.records(batch).items()}
            by_class[name] = [gallery_photo(records[place], explainer.vocabularies) for place in places]
        return by_class


@dataclass(frozen=True)
class Gallery(JsonRecord):
    """The files of `multistream gallery`, and the counts of the `n` photos that all, some or no streams get right."""

    n: int
    left_out: int
    method: str
    outcomes: Mapping[Outcome, int]
    files: tuple[Path, ...]


def make_gallery(
    explainer: Explainer, folder: Path, *, kind: str = "png", tick: Callable[[int], None] = lambda _: None
) -> Gallery:
    """Explains the photos and writes the galleries. Raises DataError if no photo could be read."""
    collector, probable, n = GalleryCollector(explainer.model.classes), MostProbable(explainer.model.classes), 0
    for batch in explainer.batches():
        for record in explainer.records(batch).values():
            collector.add(gallery_photo(record, explainer.vocabularies))
        probable.add(batch.rows, batch.forward.probabilities)
        n += len(batch.rows)
        tick(len(batch.rows))
    if not n:
        raise DataError("gallery", "no photo could be read.", do="multistream data scan says why.")
    method = explainer.request.method
    how = how_made(method, own_heads=bool(explainer.model.network.fusion.heads))
    files = write_galleries(collector, folder, by_class=probable.photos(explainer), how=how, kind=kind)
    return Gallery(n, len(explainer.selection) - n, method, collector.counts, tuple(files))


def how_made(method: str, *, own_heads: bool) -> str:
    """Returns the caption that defines the maps of a gallery and the decision of a single stream."""
    maps = "exact decomposition" if method == "decomposition" else "integrated gradients from the training mean"
    by = "its own classifier's class" if own_heads else "the class of its largest Shapley value"
    return (
        f"Attribution maps: {maps}, all stages, per unit of image area. {COLOURS} "
        f"Decision of a stream: {by}; correct if the photo has that label."
    )


def write_galleries(
    found: GalleryCollector,
    folder: Path,
    *,
    by_class: Mapping[str, Sequence[GalleryPhoto]],
    how: str,
    kind: str = "png",
) -> list[Path]:
    """Writes the figures that have photos: all-right, some-right, none-right, by-class, mean-maps, one per vector."""
    files = []
    for name, figure in _pages(found, by_class, how=how):
        files.append(folder / f"{name}.{kind}")
        save_figure(figure, files[-1], dpi=110)
    return files


def _pages(
    found: GalleryCollector, by_class: Mapping[str, Sequence[GalleryPhoto]], *, how: str
) -> Iterator[tuple[str, Figure]]:
    total = sum(found.counts.values())
    examples = {outcome: photos for outcome in OUTCOMES if (photos := found.examples(outcome))}
    for outcome, photos in examples.items():
        title = f"{TITLES[outcome]}: {found.counts[outcome]:,} of {total:,} photos"
        yield f"{outcome}-right", draw_photos(photos, title=title, how=how)
    names = list(by_class)
    for start in range(0, len(names), CLASSES_PER_PAGE):
        page = {name: by_class[name] for name in names[start : start + CLASSES_PER_PAGE]}
        number = f"-{start // CLASSES_PER_PAGE + 1}" if len(names) > CLASSES_PER_PAGE else ""
        yield f"by-class{number}", draw_classes(page, total=total)
    if differences := found.differences():
        yield "mean-maps", draw_means(differences, found.numbers)
    some = [photo for photos in examples.values() for photo in photos[:2]]
    for key in dict.fromkeys(chain.from_iterable(photo.entries for photo in some)):
        yield key, draw_entries(some, key)
