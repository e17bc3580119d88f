"""What the killed processes of test_killing do; a module of its own, so that they import no test tool."""

from __future__ import annotations

from pathlib import Path

import torch

from multistream import runs
from multistream.console import Console
from multistream.recipe import Recipe
from multistream.runs import checkpoint
from multistream.training.train import train


def work(recipe: Path, out: Path) -> None:
    """Trains the recipe, or goes on where the run was killed."""
    torch.set_num_threads(1)
    has_begun = (out / runs.RECIPE).is_file()
    console = Console(quiet=False)
    if has_begun:
        train(Recipe(), resume=out, console=console)
    else:
        train(Recipe.load(recipe), out=out, console=console)


def newest(out: Path) -> int:
    """The step of the newest checkpoint that is complete and undamaged, -1 where none was written yet.

    Nothing may be passed over as damaged: what a kill cuts short must not look like a checkpoint.
    """
    found = checkpoint.latest(out / runs.CHECKPOINTS, warn=_fail)
    return found.step if found else -1


def _fail(line: str) -> None:
    raise AssertionError(line)
