"""The settings that may differ between a run and its continuation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multistream import runs
from multistream.commands import quoted
from multistream.console import Say
from multistream.errors import CannotResume, PluginError, UsageError
from multistream.recipe import Recipe, differences

FREE_TO_CHANGE = frozenset(
    {
        "data.source",  # the location of the photos: split.csv verifies that they are the same
        "training.epochs",
        "training.patience",
        "training.checkpoint_minutes",
        *(f"runtime.{name}" for name in ("device", "workers", "threads")),
        *(f"runtime.{name}" for name in ("compile", "channels_last", "cuda_graphs", "shard")),
    }
)
"""Settings that may change on resume: those of duration and machine. `epochs` also stretches the schedule."""

BITS = ("torch", "device", "threads")
"""Properties of the environment that affect the order of floating-point sums."""


def recipe_to_resume(folder: Path, recipe: Recipe) -> Recipe:
    """Returns the run's recipe with the permitted changes. Raises CannotResume, which names the others."""
    check_is_run(folder)
    own = Recipe.load(folder)
    if recipe == Recipe():
        recipe = own
    if recipe.data.source == own.data.source and _has_moved(own.data.source):
        what = f"its photos are no longer at {own.data.source}."
        raise CannotResume(str(folder), what, do="Pass their new location: --data PATH.")
    changed = differences(own, recipe)
    wrong = [f"{name} ({before!r} -> {after!r})" for name, before, after in changed if name not in FREE_TO_CHANGE]
    if wrong:
        raise CannotResume(str(folder), f"the recipe has changed: {', '.join(wrong)}.", do="Train a new run instead.")
    return recipe


def check_is_run(folder: Path) -> None:
    """Raises UsageError, with advice, if the folder is not a run."""
    if (folder / runs.RECIPE).is_file():
        return
    if folder.is_dir():
        right = f"Every run folder has a {runs.RECIPE}."
        raise UsageError("--resume", f"{folder} is not a run.", right=right, do="Start a new run with --out.")
    what = f"{folder} does not exist: no run was started there, or it was stopped before writing anything."
    raise UsageError("--resume", what, do=f"Run the same command with {quoted('--out', folder)} instead of --resume.")


def _has_moved(source: str) -> bool:
    """Returns whether a recipe's plain path of photos no longer exists."""
    path = Path(source).expanduser()
    return bool(source) and ":" not in source and not path.exists()  # LAYOUT:PATH is not checked


def check_origin(folder: Path, saved: Mapping[str, Any], now: Mapping[str, Any], *, warn: Say) -> None:
    """Compares the environment of a checkpoint (`about` in its manifest) with the present one.

    Raises PluginError (exit 69) if plugins differ, CannotResume if classes differ. Another torch version, device or
    number of threads is reported to `warn`, because floating-point sums are then rounded differently.
    """
    for name, version in saved["distributions"].items():
        if (here := now["distributions"].get(name)) != version:
            what = f"it was trained with {name} {version}, and {f'{name} {here}' if here else 'none'} is installed."
            raise PluginError(folder, what, do=f"pip install {name}=={version}, or train a new run.")
    if saved["classes"] != now["classes"]:
        what = f"its classes are {', '.join(saved['classes'])}, those of the photos {', '.join(now['classes'])}."
        raise CannotResume(str(folder), what, do="Train a new run instead.")
    if others := [f"{name} {saved[name]} -> {now[name]}" for name in BITS if saved[name] != now[name]]:
        warn(f"resumed in another environment ({', '.join(others)}): the weights will differ in the last bits")
