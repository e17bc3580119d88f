"""`train`: from a recipe to a run folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from multistream import runs
from multistream.console import Console
from multistream.folder_lock import FolderLock
from multistream.interfaces import Stream
from multistream.nn.threads import threads
from multistream.recipe import Recipe
from multistream.runs.absolute_paths import with_absolute_paths
from multistream.runs.composition import with_distributions, with_instances
from multistream.runs.leaks import check_leaks, unknown_origins
from multistream.runs.split_file import SplitRow, check_parts, split_rows
from multistream.runtime.distributed import processes, signals_end_the_process
from multistream.training.extraction import hashed
from multistream.training.prepare import Prepared, prepare
from multistream.training.resume import recipe_to_resume
from multistream.training.run_folder import Run, write_head
from multistream.training.stop import Stop
from multistream.training.training_run import TrainingRun

__all__ = ["Run", "train"]


def train(
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    streams: Mapping[str, Stream] | None = None,
    console: Console | None = None,
    stop: Stop | None = None,
) -> Run:
    """Trains a network and writes a run folder; with `resume`, continues that run.

    `streams` supplies streams as instances, by key, in addition to those that the recipe names. If started by torchrun,
    all processes train one network together. Raises MultistreamError for errors that the user can correct, and
    Interrupted, with the run saved, soon after `stop` returns True (the command line's `stoppable` sets it on Ctrl-C
    and SIGTERM).
    """
    started = time.monotonic()
    with processes() as ranks:
        console = (console or Console(quiet=True)) if ranks.is_first else Console.silent()
        recipe = with_absolute_paths(recipe)
        if resume is not None:
            own = recipe if recipe == Recipe() else with_distributions(with_instances(recipe, streams or {}))
            recipe = recipe_to_resume(Path(resume).expanduser(), own)
        elif out is not None and ranks.is_first:
            # Checked again when the folder is created; checked here to fail before minutes of work.
            runs.check_unused(out)
        with threads(recipe.runtime.threads):
            with signals_end_the_process(ranks):
                prepared = prepare(recipe, say=console.say, streams=streams, ranks=ranks)
                digests = hashed(prepared)
                rows = _checked_rows(prepared, digests, console=console)
            folder = _folder(out, resume, prepared)
            training = TrainingRun(prepared, folder, console, stop or Stop(), digests)
            if not ranks.is_first:
                return training.run(resume=resume is not None, started=started)
            with FolderLock(folder):
                write_head(folder, prepared, rows)
                return training.run(resume=resume is not None, started=started)


def _checked_rows(prepared: Prepared, digests: Mapping[int, str], *, console: Console) -> tuple[SplitRow, ...]:
    """Returns the rows of split.csv.

    Raises DataError if a branch was trained on test images, warns if that is unknown.
    """
    rows = split_rows(prepared.table, prepared.parts, digests=digests)
    check_leaks(prepared.recipe, prepared.table, prepared.parts, digests=digests)
    for where, path in unknown_origins(prepared.recipe).items():
        console.warn(f"{where}: {path} has no {runs.SPLIT}, so test images used in its training cannot be detected")
    for note in check_parts(rows, strict=prepared.recipe.data.strict):
        console.warn(f"split: {note}")
    return rows


def _folder(out: str | Path | None, resume: str | Path | None, prepared: Prepared) -> Path:
    """Returns the run's folder, which rank 0 creates."""
    if resume is not None:
        return Path(resume).expanduser()
    made = str(runs.new_run(out, prepared.recipe)) if prepared.ranks.is_first else None
    return Path(prepared.ranks.from_first(made))
