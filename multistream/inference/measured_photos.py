"""Which photos are measured: a run's own, or another data set without the photos that the run was trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from multistream import runs
from multistream.console import Console
from multistream.data.layouts.data_source import open_table
from multistream.data.table import Table
from multistream.errors import DataError, UsageError
from multistream.runs.leaks import seen_in, splits_used, unknown_origins
from multistream.runs.model_file import LoadedModel
from multistream.runs.split_file import SplitRow, read_split, sha256_of_files

PARTS = ("train", "val", "test")
ALL = "all"
CHANGED = "changed since training"
LEARNT = "in the run's training"


def photos_to_measure(
    model: LoadedModel, *, data: str, part: str, label: str, console: Console
) -> tuple[Table, Mapping[str, int]]:
    """The photos, and how many were left out by reason.

    Without `data` the run's own `part` (test by default), without photos that are others now than their sha256 in
    split.csv says. With `data` all of it, or its own `part`, without what the run has learnt from, by the files' bytes.
    """
    if part and part not in (*PARTS, ALL):
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
    digests = sha256_of_files([table.path(i) for i in range(len(table))])
    changed = [i for i, (row, digest) in enumerate(zip(rows, digests, strict=True)) if row.sha256 != digest]
    if not changed:
        return table, {}
    first = table.ids[changed[0]]
    console.warn(f"evaluate: {len(changed):,} photos have changed since the training and are left out, first {first}")
    return table.select(sorted(set(range(len(table))) - set(changed))), {CHANGED: len(changed)}


def _other_photos(
    model: LoadedModel, data: str, part: str, label: str, console: Console
) -> tuple[Table, Mapping[str, int]]:
    table = open_table(data, label=label, allow_outside=model.recipe.data.allow_outside)
    table = _of_part(table, part, console)
    split = model.path.parent / runs.SPLIT
    splits = [*([split] if split.is_file() else []), *splits_used(model.recipe).values()]
    if not split.is_file():
        what = f"{model.path} has no {runs.SPLIT} next to it, so photos used in its training cannot be excluded"
        console.warn(f"evaluate: {what}")
    for where, path in unknown_origins(model.recipe).items():
        console.warn(
            f"evaluate: {where}: {path} has no {runs.SPLIT}, so photos used in its training cannot be excluded"
        )
    if not splits:
        return table, {}
    seen = frozenset[str]().union(*map(seen_in, splits))
    digests = sha256_of_files([table.path(i) for i in range(len(table))])
    kept = [i for i, digest in enumerate(digests) if digest not in seen]
    if not kept:
        raise DataError(table.name, f"the run was trained on all of these {len(table):,} photos.", do="Give others.")
    return table.select(kept), {LEARNT: len(table) - len(kept)}


def _of_part(table: Table, part: str, console: Console) -> Table:
    """The images of this part of a set that has parts; all of them together otherwise, which is said."""
    if table.parts is None:
        if part not in ("", ALL):
            raise UsageError("--part", f"{table.name} has no predefined splits.", do="Omit --part.")
        return table
    counts = Counter(table.parts)
    message = ", ".join(f"{name} {counts[name]:,}" for name in PARTS if counts[name])
    if part in ("", ALL):
        if len(counts) > 1 and not part:
            console.say(
                f"evaluate: all splits of the set together ({message}); --part test evaluates only the test split"
            )
        return table
    if not counts[part]:
        raise DataError(table.name, f"it has no {part} split.", right=f"It has {message}.")
    return table.select([i for i, name in enumerate(table.parts) if name == part])


def own_part(
    model: LoadedModel, command: str, *, part: str = "test", label: str = ""
) -> tuple[Table, tuple[SplitRow, ...]]:
    """The photos of one part of the run's own split, with their rows of split.csv; `command` asks for them."""
    split, settings = model.path.parent / runs.SPLIT, model.recipe.data
    if not split.is_file():
        what = f"{split.parent} has no {runs.SPLIT}, so its {part} split is unknown."
        raise UsageError(command, what, do="Give photos with labels: --data PATH.")
    rows = tuple(row for row in read_split(split) if row.part == part)
    if not rows:
        what = f"the run has no {part} split (data.split = {settings.split})."
        raise DataError(command, what, do="Give photos with labels: --data PATH.")
    table = open_table(settings.source, label=label or settings.label, allow_outside=settings.allow_outside)
    index_of = {name: i for i, name in enumerate(table.ids)}
    missing = [row.path for row in rows if row.path not in index_of]
    if missing:
        what = f"{len(missing):,} of {len(rows):,} {part} images are missing, for example {missing[0]}."
        raise DataError(settings.source or "data", what, do="Restore them, or give --data PATH.")
    return table.select([index_of[row.path] for row in rows]), rows


def own_test_part(model: LoadedModel, command: str, *, label: str = "") -> Table:
    """The photos of the run's own test split."""
    return own_part(model, command, label=label)[0]
