"""What may differ between a run and its continuation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from multistream import runs
from multistream.errors import CannotResume, PluginError, UsageError
from multistream.recipe import Recipe, differences

FREE_TO_CHANGE = frozenset(
    {
        "training.epochs",
        "training.patience",
        "training.checkpoint_minutes",
        *(f"runtime.{name}" for name in ("device", "workers", "threads", "compile", "channels_last", "cuda_graphs")),
    }
)
"""What may differ when a run is resumed: how long it trains, and where. `epochs` stretch the schedule."""

BITS = ("torch", "device", "threads")
"""What the order depends on in which a sum is rounded."""


def recipe_to_resume(folder: Path, recipe: Recipe) -> Recipe:
    """The run's own recipe with the changes that a resumed run may have; CannotResume names the others."""
    if not (folder / runs.RECIPE).is_file():
        raise UsageError("--resume", f"{folder} is no run.", right=f"A run's folder has a {runs.RECIPE}.")
    own = Recipe.load(folder)
    if recipe == Recipe():
        return own
    changed = differences(own, recipe)
    wrong = [f"{name} ({before!r} -> {after!r})" for name, before, after in changed if name not in FREE_TO_CHANGE]
    if wrong:
        raise CannotResume(str(folder), f"the recipe has changed: {', '.join(wrong)}.", do="Train a new run instead.")
    return recipe


def check_origin(
    folder: Path, saved: Mapping[str, Any], now: Mapping[str, Any], *, warn: Callable[[str], None]
) -> None:
    """Holds what made a checkpoint against what is here: `about` of its manifest, and that of now.

    Other plugins are a PluginError (exit 69), other classes CannotResume; another torch, device or number of threads
    is told to `warn`, for sums are then rounded in another order.
    """
    for name, version in saved["distributions"].items():
        if (here := now["distributions"].get(name)) != version:
            what = f"it was trained with {name} {version}, and {f'{name} {here}' if here else 'none'} is installed."
            raise PluginError(str(folder), what, do=f"pip install {name}=={version}, or train a new run.")
    if saved["classes"] != now["classes"]:
        what = f"its classes are {', '.join(saved['classes'])}, those of the photos {', '.join(now['classes'])}."
        raise CannotResume(str(folder), what, do="Train a new run instead.")
    if others := [f"{name} {saved[name]} -> {now[name]}" for name in BITS if saved[name] != now[name]]:
        warn(f"resumed elsewhere ({', '.join(others)}): the last bits of the weights will differ")
