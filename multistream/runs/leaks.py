"""Leaks: a branch must not be tested on images that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from multistream.data.file_hashes import digests_of
from multistream.data.splits import Parts
from multistream.data.table import Table
from multistream.errors import DataError
from multistream.recipe import Recipe
from multistream.runs.folder import RECIPE, SPLIT, folder_of
from multistream.runs.split_file import read_split
from multistream.spec import Spec

SEEN = ("train", "val")
"""Splits that influence a run: the weights are fitted on train, the best epoch is selected on val."""


def check_leaks(recipe: Recipe, table: Table, parts: Parts, *, digests: Mapping[int, str] | None = None) -> None:
    """Raises DataError if a used branch or its weights were trained on test images; compares sha256.

    `digests` are the photos' sha256 by index, if known.
    """
    used = splits_used(recipe)
    if not used:
        return
    places = parts.test.tolist()
    digests = digests or digests_of(table, places)
    test = {digests[i] for i in places}
    for where, split in used.items():
        if leaked := len(test & seen_in(split)):
            raise DataError(
                where,
                f"{leaked:,} of {len(test):,} test images were in the training split of {split.parent}.",
                right="A branch must not be tested on its own training images.",
                do="Train with that run's data.split_seed.",
            )


def splits_used(recipe: Recipe) -> dict[str, Path]:
    """Returns the split.csv of every run that a branch or a stream's weights come from, by setting.

    Runs that are part of those runs are included: `streams.a streams.b` is the run of b in the run of a. A model file
    that was copied from its run has no split.csv, so its training images are unknown.
    """
    named: dict[Path, str] = {}
    to_look = list(_runs_named(recipe).items())
    for where, run in to_look:  # the list grows during the loop
        folder = folder_of(run).resolve()
        if folder not in named and (folder / RECIPE).is_file():
            to_look += [(f"{where} {inner}", path) for inner, path in _runs_named(Recipe.load(folder)).items()]
        named.setdefault(folder, where)
    return {where: folder / SPLIT for folder, where in named.items() if (folder / SPLIT).is_file()}


def _runs_named(recipe: Recipe) -> dict[str, Path]:
    """Returns the runs that a recipe's branches and weights come from, by setting."""
    named = {f"streams.{key}": Spec.parse(text, key=key).run for key, text in recipe.network.streams.items()}
    named |= {f"weights.{key}": _folder(text) for key, text in recipe.network.weights.items()}
    return {where: run for where, run in named.items() if run}


def seen_in(split: Path) -> frozenset[str]:
    """Returns the sha256 of all training and validation images in this split.csv."""
    return frozenset(row.sha256 for row in read_split(split, parts=SEEN))


def unknown_origins(recipe: Recipe) -> Mapping[str, str]:
    """Returns {setting: path} of branches from runs without a split.csv, whose training images are unknown."""
    known = splits_used(recipe)
    named = {f"streams.{key}": text for key, text in recipe.network.streams.items() if Spec.parse(text, key=key).run}
    return {where: text for where, text in named.items() if where not in known}


def _folder(text: str) -> Path | None:
    """Returns the run in `--weights KEY=RUN`; None for weight files, `hub` and `random`."""
    path = Path(text).expanduser()
    return path if text not in ("hub", "random") and path.is_dir() else None
