"""`train`: from a recipe to a run folder."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from multistream import runs
from multistream.console import Console
from multistream.data.layouts.data_source import absolute_source
from multistream.folder_lock import FolderLock
from multistream.interfaces import Stream
from multistream.nn.threads import threads
from multistream.recipe import Recipe
from multistream.runs.composition import with_distributions, with_instances
from multistream.runs.leaks import check_leaks, unknown_origins
from multistream.runs.split_file import SplitRows, check_parts, split_rows
from multistream.runtime.distributed import processes, signals_end_the_process
from multistream.spec import Spec
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
                digests = hashed(prepared, console=console)
                rows = _checked_rows(prepared, digests, console=console)
            folder = _folder(out, resume, prepared)
            training = TrainingRun(prepared, folder, console, stop or Stop(), digests)
            if not ranks.is_first:
                return training.run(resume=resume is not None, started=started)
            with FolderLock(folder):
                write_head(folder, prepared, rows)
                return training.run(resume=resume is not None, started=started)


def _checked_rows(prepared: Prepared, digests: Mapping[int, str], *, console: Console) -> SplitRows:
    """The rows of split.csv; DataError if a branch was trained on test images, warnings if that is unknown."""
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


NO_PATHS = ("hub", "random")
"""Values of `--weights KEY=` that are not paths."""


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """Returns the recipe with absolute paths of data, inputs, weights and runs."""
    network = recipe.network
    weights = {key: text if text in NO_PATHS else _absolute(text) for key, text in network.weights.items()}
    inputs = {name: _absolute(path) for name, path in network.inputs.items()}
    changes = {"inputs": inputs, "weights": weights, "streams": _streams(network.streams)}
    return recipe.updated({"data": {"source": absolute_source(recipe.data.source)}, "network": changes})


def _streams(streams: Mapping[str, str]) -> dict[str, str]:
    """Returns the specs by key, with absolute paths of runs and of files that are a part's variant."""
    return {key: _absolute_spec(text, key) for key, text in streams.items()}


def _absolute_spec(text: str, key: str) -> str:
    spec = Spec.parse(text, key=key)
    if spec.run is not None:
        return _absolute(str(spec.run))
    return replace(spec, variant=_absolute(str(spec.variant_path))).part if spec.variant_path else text


def _absolute(path: str) -> str:
    """Returns the absolute path of an existing file; any other name (such as a CSV's column of maps) is unchanged."""
    there = Path(path).expanduser()
    return os.path.abspath(there) if there.exists() else path
