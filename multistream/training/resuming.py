"""What may differ between a run and its continuation."""

from __future__ import annotations

from pathlib import Path

from multistream import runs
from multistream.errors import CannotResume, UsageError
from multistream.recipe import Recipe, differences

FREE_TO_CHANGE = ("training.epochs", "training.checkpoint_minutes", "runtime.", "training.patience")
"""What may differ when a run is resumed."""


def recipe_to_resume(folder: Path, recipe: Recipe) -> Recipe:
    """The run's own recipe with the changes that a resumed run may have; CannotResume names the others."""
    if not (folder / runs.RECIPE).is_file():
        raise UsageError("--resume", f"{folder} is no run.", right=f"A run's folder has a {runs.RECIPE}.")
    own = Recipe.load(folder)
    if recipe == Recipe():
        return own
    changed = differences(own, recipe)
    wrong = [
        f"{name} ({before!r} -> {after!r})" for name, before, after in changed if not name.startswith(FREE_TO_CHANGE)
    ]
    if wrong:
        raise CannotResume(str(folder), f"the recipe has changed: {', '.join(wrong)}.", do="Train a new run instead.")
    return recipe
