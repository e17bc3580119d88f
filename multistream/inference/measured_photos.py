"""Selects the photos to evaluate: a run's own, or another data set without the photos the run was trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from multistream import runs
from multistream.console import Console
from multistream.data.file_hashes import digests_of
from multistream.data.layouts.data_source import open_table
from multistream.data.table import Table
from multistream.errors import DataError, UsageError
from multistream.runs.leaks import seen_in, splits_used, unknown_origins
from multistream.runs.model_file import LoadedModel
from multistream.runs.split_file import SplitRow, read_split

PARTS = ("train", "val", "test")
ALL = "all"
CHANGED = "changed since training"
LEARNT = "in the run's training"


def photos_to_measure(
    model: LoadedModel, *, data: str, part: str, label: str, console: Console
) -> tuple[Table, Mapping[str, int]]:
    """Returns the photos, and the number of excluded photos by reason.

    Without `data`: the run's own `part` (default: test), without photos whose sha256 differs from split.csv. With
    `data`: the whole set or its `part`, without photos the run was trained on, which are identified by sha256.
    """
    if part not in ("", *PARTS, ALL):
        raise UsageError("--part", f"{part!r} is unknown.", right=f"It must be {', '.join((*PARTS, ALL))}.")
    if data:
        return _other_photos(model, data, part, label, console)
    if part == ALL:
        raise UsageError(
            "--part",
            "all includes photos that the run was trained on.",
            right="For the run's own photos: train, val or test.",
        )
    table, rows = own_part(model, "evaluate", part=part or "test", label=label)
    digests = digests_of(table, range(len(table)))
    changed = np.array([digests[i] != row.sha256 for i, row in enumerate(rows)])
    count = int(changed.sum())
    if not count:
        return table, {}
    first = table.ids[int(changed.argmax())]
    console.warn(f"evaluate: {count:,} photos have changed since the training and are left out, first {first}")
    return table.select(np.flatnonzero(~changed)), {CHANGED: count}


def _other_photos(
    model: LoadedModel, data: str, part: str, label: str, console: Console
) -> tuple[Table, Mapping[str, int]]:
    table = open_table(data, label=label, allow_outside=model.recipe.data.allow_outside)
    table = _of_part(table, part, console)
    splits = list(splits_used(model.recipe).values())
    unknown = [f"{where}: {path} has no {runs.SPLIT}" for where, path in unknown_origins(model.recipe).items()]
    split = model.path.parent / runs.SPLIT
    if split.is_file():
        splits.append(split)
    else:
        unknown.insert(0, f"{model.path} has no {runs.SPLIT} next to it")
    for what in unknown:
        console.warn(f"evaluate: {what}, so photos used in its training cannot be excluded")
    if not splits:
        return table, {}
    seen = frozenset[str]().union(*map(seen_in, splits))
    kept = [i for i, digest in digests_of(table, range(len(table))).items() if digest not in seen]
    if not kept:
        raise DataError(
            table.name, f"the run was trained on all of these {len(table):,} photos.", do="Pass other photos."
        )
    return table.select(kept), {LEARNT: len(table) - len(kept)}


def _of_part(table: Table, part: str, console: Console) -> Table:
    """Selects this part of a set that has parts; with no part named, all of them, which is reported."""
    counts = Counter(table.parts)
    message = ", ".join(f"{name} {counts[name]:,}" for name in PARTS if counts[name])
    if not part and len(counts) > 1:
        console.say(f"evaluate: all splits of the set together ({message}); --part test evaluates only the test split")
    if part in ("", ALL):
        return table
    if table.parts is None:
        raise UsageError("--part", f"{table.name} has no predefined splits.", do="Omit --part.")
    if not counts[part]:
        raise DataError(table.name, f"it has no {part} split.", right=f"It has {message}.")
    return table.select(np.flatnonzero(np.array(table.parts) == part))


def own_part(
    model: LoadedModel, command: str, *, part: str = "test", label: str = ""
) -> tuple[Table, tuple[SplitRow, ...]]:
    """Returns the photos of one part of the run's own split, with their rows of split.csv.

    `command` names the calling command in errors.
    """
    settings = model.recipe.data
    rows = _rows_of_part(model, command, part)
    table = open_table(settings.source, label=label or settings.label, allow_outside=settings.allow_outside)
    index_of = {name: i for i, name in enumerate(table.ids)}
    missing = [row.path for row in rows if row.path not in index_of]
    if missing:
        what = f"{len(missing):,} of {len(rows):,} {part} images are missing, for example {missing[0]}."
        raise DataError(settings.source or "data", what, do="Restore them, or pass --data PATH.")
    return table.select([index_of[row.path] for row in rows]), rows


def _rows_of_part(model: LoadedModel, command: str, part: str) -> tuple[SplitRow, ...]:
    split, do = model.path.parent / runs.SPLIT, "Pass photos with labels: --data PATH."
    if not split.is_file():
        raise UsageError(command, f"{split.parent} has no {runs.SPLIT}, so its {part} split is unknown.", do=do)
    rows = read_split(split, parts=[part])
    if not rows:
        what = f"the run has no {part} split (data.split = {model.recipe.data.split})."
        raise DataError(command, what, do=do)
    return rows
