"""Galleries as pictures: rows of a photo and each stream's map; mean maps by class; a vector's view of photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from multistream.data.filenames import printable
from multistream.explaining.gallery import OUTCOMES, Collector, Entry, Outcome, Shown
from multistream.explaining.overlays import AGAINST, FOR, SIDE, blended
from multistream.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RIGHT, WRONG = "#1b6e3c", "#a3201a"
TITLES: dict[Outcome, str] = {
    "all": "All streams right",
    "some": "Some streams right",
    "none": "No stream right",
}
LONGEST = 30


def write_galleries(found: Collector, folder: Path, *, how: str) -> list[Path]:
    """Writes what there is: all-right.png, some-right.png, none-right.png, mean-maps.png, and KEY.png of each vector.

    `how` says in a line what the maps are and how streams decide by themselves; it stands below each gallery.
    """
    total = sum(found.counts.values())
    pages: dict[str, Figure] = {}
    for outcome in OUTCOMES:
        if photos := found.examples(outcome):
            title = f"{TITLES[outcome]}: {found.counts[outcome]:,} of {total:,} photos"
            pages[f"{outcome}-right"] = draw_photos(photos, title=title, how=how)
    if means := found.means():
        pages["mean-maps"] = draw_means(means, found.numbers)
    every = [shown for outcome in OUTCOMES for shown in found.examples(outcome)[:2]]
    for key in dict.fromkeys(key for shown in every for key in shown.entries):
        pages[key if key not in pages else f"{key}-vector"] = draw_entries(every, key)
    return [_saved(figure, folder / f"{name}.png") for name, figure in pages.items()]


def draw_photos(photos: Sequence[Shown], *, title: str, how: str) -> Figure:
    """A row for each photo: itself, then each stream's map for the class explained, on one scale for the photo."""
    from matplotlib.figure import Figure

    keys = list(photos[0].maps)
    others = [key for key in photos[0].decisions if key not in keys]
    columns = 1 + len(keys)
    figure = Figure(figsize=(2.35 * columns + 0.4, 2.75 * len(photos) + 1.0), layout="constrained")
    _title(figure, title, how)
    axes = figure.subplots(len(photos), columns, squeeze=False)
    for line, shown in zip(axes, photos, strict=True):
        limit = _limit(list(shown.maps.values()))
        said = [f"{key}: {_short(shown.decisions[key])}" for key in others]
        words = [_short(Path(shown.name).name), f"label {_short(shown.label)}, fused {_short(shown.predicted)}", *said]
        _draw(line[0], _photo(shown.image), "\n".join(words), "black")
        for axis, key in zip(line[1:], keys, strict=True):
            decision = shown.decisions[key]
            verdict = f"{key} says {_short(decision)}\nmap for {_short(shown.target)}"
            color = RIGHT if decision == shown.label else WRONG
            _draw(axis, blended(shown.image, shown.maps[key], limit=limit), verdict, color)
    return figure


def draw_means(means: Mapping[str, Mapping[str, Tensor]], numbers: Mapping[str, int]) -> Figure:
    """A row for each stream, a column for each class: the mean map of the class's photos, one scale for a stream."""
    from matplotlib.figure import Figure

    classes = list(dict.fromkeys(name for maps in means.values() for name in maps))
    figure = Figure(figsize=(1.6 * len(classes) + 0.6, 1.85 * len(means) + 1.0), layout="constrained")
    _title(
        figure, "Mean maps by label", "Where the evidence lies in the mean of a class's photos; one scale for a stream."
    )
    axes = figure.subplots(len(means), len(classes), squeeze=False)
    for place, (line, (key, maps)) in enumerate(zip(axes, means.items(), strict=True)):
        limit = _limit(list(maps.values()))
        for axis, name in zip(line, classes, strict=True):
            words = "" if place else f"{_short(name)} ({numbers[name]:,})"
            _draw(axis, blended(None, maps[name], limit=limit), words, "black")
        line[0].set_ylabel(key, fontsize=9)
    return figure


def draw_entries(photos: Sequence[Shown], key: str) -> Figure:
    """A vector's view (paper fig. 1): a photo, its strongest entries with their scores, and what each gave."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 2.6 * len(photos) + 1.0), layout="constrained")
    _title(
        figure,
        f"What {key} sees",
        "The highest scores of each photo, and what each entry gave to the class's logit: orange for, violet against.",
    )
    axes = figure.subplots(len(photos), 3, squeeze=False, width_ratios=[1, 1.25, 1.25])
    for (photo, left, right), shown in zip(axes, photos, strict=True):
        words = f"{_short(Path(shown.name).name)}\nlabel {_short(shown.label)}, {key} says "
        _draw(photo, _photo(shown.image), words + _short(shown.decisions[key]), "black")
        entries = shown.entries[key]
        _bars(left, entries, [entry.score for entry in entries], ["#5a6b7b"] * len(entries), "score")
        colours = [FOR if entry.given > 0 else AGAINST for entry in entries]
        _bars(right, entries, [entry.given for entry in entries], colours, f"gave to {_short(shown.target)}")
        right.set_yticklabels([])
    return figure


def _limit(maps: Sequence[Tensor]) -> float:
    """The density that gets the full colour: not the single largest cell, which would dim all else."""
    return max((float(m.abs().flatten().quantile(0.995)) for m in maps), default=0.0) or 1.0


def _photo(image: Tensor | None) -> NDArray[np.float32]:
    if image is None:
        return np.full((SIDE, SIDE, 3), 0.93, dtype=np.float32)
    seen = functional.interpolate(image[None].float(), (SIDE, SIDE), mode="bilinear", antialias=True)[0]
    picture: NDArray[np.float32] = (seen / 255).clamp(0, 1).permute(1, 2, 0).numpy()
    return picture


def _draw(axis: Axes, picture: NDArray[np.float32], words: str, color: str) -> None:
    axis.imshow(picture)
    axis.set_xticks([])
    axis.set_yticks([])
    for edge in axis.spines.values():
        edge.set_visible(False)
    axis.set_title(words, fontsize=8, color=color, parse_math=False, loc="left")


def _bars(axis: Axes, entries: Sequence[Entry], values: Sequence[float], colours: Sequence[object], title: str) -> None:
    axis.barh(range(len(entries)), values, color=colours, height=0.65)
    axis.set_yticks(range(len(entries)), [_short(entry.name) for entry in entries], fontsize=8, parse_math=False)
    axis.invert_yaxis()
    axis.axvline(0, color="black", linewidth=0.6)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="x", labelsize=7)
    axis.tick_params(axis="y", length=0)
    axis.set_title(title, fontsize=8, parse_math=False, loc="left")


def _title(figure: Figure, title: str, how: str) -> None:
    figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left", parse_math=False)
    figure.supxlabel(how, fontsize=7.5, x=0.01, ha="left", color="0.35", parse_math=False, wrap=True)


def _short(name: str) -> str:
    """A name on one line that fits."""
    text = printable(name)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _saved(figure: Figure, path: Path) -> Path:
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=110, facecolor="white", metadata={"Software": None})
    return path
