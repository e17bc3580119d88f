"""evaluate: a run measured on its own test part, or on other photos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from multistream import runs
from multistream.console import Console
from multistream.data.layouts.data_source import open_table
from multistream.data.photos import make_photos
from multistream.data.side_inputs import gather
from multistream.data.table import Table
from multistream.errors import DataError, UsageError
from multistream.features import extract
from multistream.inference.class_maps import match_classes, read_class_map
from multistream.inference.metrics import Metrics, metrics
from multistream.inference.model import Model, load
from multistream.runs.leaks import seen_in, splits_used
from multistream.runs.model_file import require_trained
from multistream.runs.predictions_file import as_predictions, write_predictions
from multistream.runs.split_file import read_split, sha256_of_files
from multistream.runtime.device import available_workers, resolve_again


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a run on some photos, and how many were left out, by reason."""

    run: str
    data: str
    metrics: Metrics
    left_out: Mapping[str, int]
    unreachable: tuple[str, ...] = ()
    """Classes of the photos that the run cannot say."""
    reachable: Metrics | None = None
    """The metrics without photos of those classes, where there are any."""

    def to_dict(self) -> dict[str, Any]:
        """What `evaluate --json` prints."""
        about = {"run": self.run, "data": self.data, "left_out": dict(self.left_out)}
        if self.reachable:
            about |= {"unreachable": list(self.unreachable), "reachable": self.reachable.to_dict()}
        return {**self.metrics.to_dict(), **about}


def evaluate(
    run: str | Path,
    *,
    data: str = "",
    label: str = "",
    class_map: str = "",
    inputs: Mapping[str, str] | None = None,
    predictions: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    console: Console | None = None,
) -> Evaluation:
    """Measures a run on its own test part, or on `data`, of which images of the run's own training are left out.

    Classes are matched by name, or through `class_map` (a file {ours: theirs}, or a shipped map's name).
    """
    console = console or Console(quiet=True)
    model = load(run)
    require_trained(model, "evaluate")
    table, left_out = _photos_to_measure(model, data, label)
    match = match_classes(model.classes, table.classes, mapping=read_class_map(class_map) if class_map else None)
    console.say(f"evaluate: {table.name}, {len(table):,} images; {sum(left_out.values()):,} left out as trained on")
    sources = {**model.recipe.network.inputs, **(inputs or {})} if not data else dict(inputs or {})
    probabilities, valid = _probabilities(model, table, sources, device, precision, console)
    if not valid.any():
        raise DataError("evaluate", "no photo could be decoded.", do="Run multistream data scan.")
    if bad := int((~valid).sum()):
        left_out = {**left_out, "cannot be decoded": bad}
    rows = np.flatnonzero(valid)
    probabilities, labels = match.apply(probabilities[rows]), table.labels[rows]
    if predictions is not None:
        write_predictions(predictions, as_predictions(table, rows, probabilities, classes=match.classes))
    reachable = match.reachable(labels)
    return Evaluation(
        str(run),
        table.name,
        metrics(probabilities, labels, match.classes),
        left_out,
        unreachable=match.unreachable,
        reachable=metrics(probabilities[reachable], labels[reachable], match.classes)
        if reachable.any() and match.unreachable
        else None,
    )


def _photos_to_measure(model: Model, data: str, label: str) -> tuple[Table, dict[str, int]]:
    """The run's own test part, or all of `data` but what the run was trained on (by the files' bytes)."""
    folder = model.path.parent
    settings = model.recipe.data
    split = read_split(folder / runs.SPLIT) if (folder / runs.SPLIT).is_file() else None
    if data:
        table = open_table(data, label=label, allow_outside=settings.allow_outside)
        splits = [folder / runs.SPLIT] if split else []
        seen = frozenset[str]().union(*map(seen_in, [*splits, *splits_used(model.recipe).values()]))
        hashes = sha256_of_files([table.path(i) for i in range(len(table))]) if seen else ()
        kept = [i for i, digest in enumerate(hashes) if digest not in seen] if seen else list(range(len(table)))
        return table.select(kept), {"in the run's training": len(table) - len(kept)} if seen else {}
    return own_test_part(model, "evaluate", label=label), {}


def own_test_part(model: Model, command: str, *, label: str = "") -> Table:
    """The photos of the run's own test part, from its recipe's data and split.csv; `command` asks for them."""
    folder, settings = model.path.parent, model.recipe.data
    if not (folder / runs.SPLIT).is_file():
        what = f"{folder} has no {runs.SPLIT}, so its test part is not known."
        raise UsageError(command, what, do="Give photos with labels: --data PATH.")
    table = open_table(settings.source, label=label or settings.label, allow_outside=settings.allow_outside)
    places = {name: i for i, name in enumerate(table.ids)}
    test = [row.path for row in read_split(folder / runs.SPLIT) if row.part == "test"]
    gone = [name for name in test if name not in places]
    if gone:
        raise DataError(settings.source, f"{len(gone):,} of {len(test):,} test images are gone, {gone[0]} say.")
    return table.select([places[name] for name in test])


def _probabilities(
    model: Model, table: Table, sources: Mapping[str, str], device: str, precision: str, console: Console
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """softmax(logits) (N, K), and which rows could be had."""
    settings = replace(model.recipe.data, on_bad_image="report")
    side_inputs = gather(table, model.inputs, sources, missing=settings.missing_vectors, resize=settings.resize)
    for note in side_inputs.notes:
        console.say(f"data: {note}")
    runtime = resolve_again(model.recipe, device=device, precision=precision)
    network = runtime.place(model.network).freeze(*model.recipe.network.freeze)  # so far the cache knows its streams
    photos = make_photos(table, network.inputs, side_inputs, settings)
    with console.progress(len(table), "features") as bar:
        extracted = extract(
            network,
            photos,
            np.flatnonzero(side_inputs.usable),
            runtime=runtime,
            workers=available_workers(),
            tick=bar.advance,
            say=console.say,
        )
    with torch.no_grad():
        logits = network.classify(extracted.to(runtime.device))
    return logits.double().softmax(1).cpu().numpy(), extracted.valid.numpy()
