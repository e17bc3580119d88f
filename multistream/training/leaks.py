"""Leaks: an image that a branch was trained on must not be tested on."""

from __future__ import annotations

from multistream import runs
from multistream.data.splits import Parts, read_split, sha256_of_files
from multistream.data.tables import Table
from multistream.errors import DataError
from multistream.recipe import Recipe
from multistream.spec import Spec


def check_leaks(recipe: Recipe, table: Table, parts: Parts) -> None:
    """Refuses test images that lie in the training part of a run whose branch is used; compares the files' bytes."""
    specs = {key: Spec.parse(text, key=key) for key, text in recipe.network.streams.items()}
    runs_used = {key: spec.run for key, spec in specs.items() if spec.run and (spec.run / runs.SPLIT).is_file()}
    test = set(sha256_of_files([table.path(i) for i in parts.test])) if runs_used else set()
    for key, run in runs_used.items():
        trained = {row.sha256 for row in read_split(run / runs.SPLIT) if row.part in ("train", "val")}
        if leaked := len(test & trained):
            raise DataError(
                f"streams.{key}",
                f"{leaked:,} of {len(test):,} test images were in the training part of {run}.",
                right="A branch may not have seen what it is tested on.",
                do="Train with that run's data.split_seed.",
            )
