"""What a training writes before its first step, and reads when it is resumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from multistream import runs
from multistream._version import __version__
from multistream.console import Console
from multistream.data.filenames import printable
from multistream.errors import CannotResume
from multistream.files import clean, write_atomic
from multistream.network.compose import plan_of
from multistream.runs import checkpoint
from multistream.runs.model_file import distributions_of
from multistream.runs.split_file import SplitRow, read_split, write_rows
from multistream.training.prepare import Prepared
from multistream.training.progress import Progress
from multistream.training.resume import check_origin


def write_head(folder: Path, prepared: Prepared, rows: Sequence[SplitRow]) -> None:
    """Writes what a run can be repeated from, before anything is trained; a resumed run's data must be the same.

    Photos that moved are the same where their ids, labels, parts and bytes are.
    """
    clean(folder)
    checkpoint.clean(folder / runs.CHECKPOINTS)
    if (folder / runs.SPLIT).is_file():
        if changed := set(read_split(folder / runs.SPLIT)) ^ set(rows):
            paths = sorted({row.path for row in changed})
            what = f"{len(paths):,} photos have changed since the run started, for example {printable(paths[0])}."
            raise CannotResume(str(folder), what, do="Train a new run instead.")
    else:
        write_rows(folder / runs.SPLIT, rows)
    runs.remove_checksums(folder)
    write_atomic(folder / runs.RECIPE, prepared.recipe.dumps())


def origin(prepared: Prepared) -> dict[str, Any]:
    """What makes a checkpoint: versions, recipe, classes, plugins, device and threads."""
    return {
        "version": __version__,
        "recipe": prepared.recipe.to_dict(),
        "classes": list(prepared.table.classes),
        "distributions": distributions_of(plan_of(prepared.network)),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": str(prepared.runtime.device),
    }


def read_checkpoint(folder: Path, prepared: Prepared, *, console: Console) -> checkpoint.Checkpoint | None:
    """The newest complete checkpoint of a run; None where the run was stopped before its first."""
    place = folder / runs.CHECKPOINTS
    saved = checkpoint.latest(place, warn=console.warn)
    if saved is None:
        if any(place.glob("step-*")):
            raise CannotResume(str(folder), "no checkpoint is complete and undamaged.", do="Train it again.")
        console.say("train: no checkpoint was written yet; training starts from the beginning")
        return None
    with checkpoint.understood(saved.path):
        check_origin(folder, saved.about, origin(prepared), warn=console.warn)
        Progress.from_state({name: v for name, v in saved.state.items() if name not in ("optimizer", "scaler")})
    return saved
