"""`evaluate`: computes a run's metrics on its own test split, or on other photos."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from multistream.console import Console
from multistream.data.loading import make_photos
from multistream.data.side_inputs import SideInputs, gather
from multistream.data.table import Table
from multistream.errors import DataError, UsageError
from multistream.features import extract
from multistream.inference.class_maps import ClassMatch, match_classes, read_class_map
from multistream.inference.measured_photos import photos_to_measure
from multistream.inference.metrics import Measures, Metrics, measures, metrics, without_temperature
from multistream.inference.missing import (
    MissingPolicy,
    MissingStream,
    PolicyAccuracy,
    absent_pooled,
    policy_accuracies,
    probabilities_by_policy,
)
from multistream.inference.model import Model, load
from multistream.inputs import Input, names_of, side_inputs_of
from multistream.interfaces import Stream
from multistream.network.network import MultiStream
from multistream.recipe import DataSettings, MissingVectors
from multistream.records import plain
from multistream.runs.model_file import require_trained
from multistream.runs.predictions_file import as_predictions, over_classes, write_predictions
from multistream.runtime.device import available_workers, resolve_again
from multistream.runtime.memory import exhausted


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a run on some photos, and the number of excluded photos by reason."""

    run: str
    data: str
    metrics: Measures
    left_out: Mapping[str, int]
    unreachable: tuple[str, ...] = ()
    """Classes of the photos that the run cannot predict."""
    reachable: Metrics | None = None
    """The metrics without photos of those classes; None if there are no such photos."""
    missing: Mapping[str, int] = field(default_factory=dict)
    """Number of photos that lack a stream, by its key."""
    temperature: float = 1.0
    """The divisor of the logits."""
    policies: Mapping[str, PolicyAccuracy] = field(default_factory=dict)
    """If some photos lack a stream: accuracy on complete photos, and on all photos under `drop` and under `mean`."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the output of `evaluate --json`."""
        about: dict[str, Any] = {"run": self.run, "data": self.data, "left_out": dict(self.left_out)}
        if self.temperature != 1:
            about["temperature"] = self.temperature
        if self.reachable:
            about |= {"unreachable": list(self.unreachable), "reachable": self.reachable.to_dict()}
        if self.missing:
            about |= {"missing": dict(self.missing), "policies": plain(self.policies)}
        return {**self.metrics.to_dict(), **about}


@dataclass(frozen=True)
class _PolicyOutputs:
    """Probabilities (N, K) by policy; `valid` (N,) rows; `present` (N,) by key."""

    probabilities: Mapping[MissingStream, NDArray[np.float64]]
    valid: NDArray[np.bool_]
    present: Mapping[str, NDArray[np.bool_]]


def evaluate(
    run: str | PathLike[str],
    *,
    data: str = "",
    part: str = "",
    label: str = "",
    class_map: str = "",
    inputs: Mapping[str, str] | None = None,
    missing: str = "",
    without: Collection[str] = (),
    streams: Mapping[str, Stream] | None = None,
    predictions: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    console: Console | None = None,
) -> Evaluation:
    """Evaluates a run on its test split, or on the data set `data` without the images that the run was trained on.

    `part` names another split. Classes are matched by name, or through `class_map`: the name of a built-in map, or a
    file that maps the run's classes to the data's. `missing` is error, drop or mean, for photos without a vector or
    map; `without` names streams to leave out. `streams` supplies the streams that were passed as instances.
    """
    console = console or Console(quiet=True)
    model = load(run, streams=streams)
    require_trained(model, "evaluate")
    policy = MissingPolicy.settle(model.network, model.recipe.data, missing=missing, without=without)
    table, left_out = photos_to_measure(model, data=data, part=part, label=label, console=console)
    _check_label_sets(model.network, table, class_map)
    match = match_classes(model.classes, table.classes, mapping=read_class_map(class_map) if class_map else {})
    console.say(f"evaluate: {table.name}, {len(table):,} images{_reasons(left_out)}")
    sources = dict(inputs or {})
    if not data:
        sources = {**model.recipe.network.inputs, **sources}
    measured = _measure(model, table, sources, policy, device=device, precision=precision, console=console)
    rows = np.flatnonzero(measured.valid)
    if not len(rows):
        raise DataError("evaluate", "no photo could be used.", do="Run multistream data scan.")
    if bad := len(table) - len(rows):
        left_out = {**left_out, "cannot be used": bad}
    by_policy = {name: match.apply(each[rows]) for name, each in measured.probabilities.items()}
    probabilities, labels = by_policy[policy.policy], table.labels[rows]
    if predictions is not None:
        write_predictions(predictions, as_predictions(table, rows, probabilities, classes=match.classes))
    present = {key: mask[rows] for key, mask in measured.present.items() if not mask[rows].all()}
    raw = without_temperature(measured.probabilities[policy.policy][rows], model.network.temperature)
    return Evaluation(
        fspath(run),
        table.name,
        _metrics(probabilities, table, rows, match, raw=raw),
        left_out,
        temperature=model.network.temperature,
        unreachable=match.unreachable,
        reachable=_reachable_metrics(probabilities, labels, match),
        missing={key: int((~mask).sum()) for key, mask in present.items()},
        policies=policy_accuracies(
            by_policy, labels, present, label_sets=over_classes(table.label_sets, rows, classes=len(match.classes))
        ),
    )


def _reasons(left_out: Mapping[str, int]) -> str:
    return "".join(f"; left out: {count:,} {reason}" for reason, count in left_out.items())


def _metrics(
    probabilities: NDArray[np.float64],
    table: Table,
    rows: NDArray[np.int64],
    match: ClassMatch,
    *,
    raw: NDArray[np.float64] | None,
) -> Measures:
    """Computes the metrics of these rows of the table; `raw` (N, K) are the run's probabilities without temperature."""
    return measures(
        probabilities,
        table.labels[rows],
        match.classes,
        label_sets=over_classes(table.label_sets, rows, classes=len(match.classes)),
        votes=over_classes(table.votes, rows, classes=len(match.classes)),
        uncalibrated=None if raw is None else match.apply(raw),
    )


def _check_label_sets(network: MultiStream, table: Table, class_map: str) -> None:
    """Raises UsageError unless the run and the data both have one label per image, or both have label sets."""
    if network.label_sets != (table.label_sets is not None):
        several = "one label per image, and the run predicts several."
        what = several if network.label_sets else "several labels per image, and the run predicts one."
        right = "With several, --label names the columns, or one column and its separator: tags[;]."
        raise UsageError("--label", f"{table.name} has {what}", right=right)
    if network.label_sets and class_map:
        raise UsageError("--class-map", "probabilities of several labels cannot be added up.", do="Omit it.")


def _reachable_metrics(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], match: ClassMatch
) -> Metrics | None:
    """Computes the metrics without photos of classes that the run cannot predict; None if there are none."""
    reachable = match.reachable(labels)
    if not (reachable.any() and match.unreachable):
        return None
    return metrics(probabilities[reachable], labels[reachable], match.classes)


def _measure(
    model: Model,
    table: Table,
    sources: Mapping[str, str],
    policy: MissingPolicy,
    *,
    device: str,
    precision: str,
    console: Console,
) -> _PolicyOutputs:
    """Runs the available streams over the photos, and fuses them under the policy."""
    settings = replace(model.recipe.data, on_bad_image="report")
    runtime = resolve_again(model.recipe, device=device, precision=precision)
    network = runtime.place(model.network).freeze(*model.recipe.network.freeze)  # so the cache recognises the streams
    policy = policy.leaving_out(network, _without_source(policy, network.inputs, sources, table))
    kept = {key: each for key, each in network.inputs.items() if key not in policy.without}
    side_inputs = _gather(table, kept, sources, policy, network, settings)
    for note in side_inputs.notes:
        console.say(f"data: {note}")
    photos = make_photos(table, kept, side_inputs, settings)
    present = {key: mask for key, mask in side_inputs.present.items() if policy.fills and not mask.all()}
    present |= {key: np.zeros(len(table), dtype=np.bool_) for key in sorted(policy.without)}
    usable = side_inputs.usable
    if policy.policy == "drop" and set(present) == set(network.branches):
        usable = usable & np.logical_or.reduce(list(present.values()))
    what = f"a batch of photos does not fit into the memory of {runtime}."
    with (
        console.progress(len(table), "features") as bar,
        exhausted("evaluate", what, do="Free memory, or use a device with more: --device cpu."),
    ):
        extracted = extract(
            network,
            photos,
            np.flatnonzero(usable),
            runtime=runtime,
            workers=available_workers(),
            tick=bar.advance,
            say=console.say,
            keys=kept,
        )
        features = {**extracted.to(runtime.device), **absent_pooled(network, policy.without, len(table))}
        masks = {key: torch.from_numpy(mask).to(runtime.device) for key, mask in present.items()}
        probabilities = probabilities_by_policy(network, features, masks, policy)
    return _PolicyOutputs(probabilities, extracted.valid.numpy(), present)


def _without_source(
    policy: MissingPolicy, inputs: Mapping[str, Input], sources: Mapping[str, str], table: Table
) -> frozenset[str]:
    """Returns the streams that have no source of inputs, if the policy permits that."""
    if not policy.fills:
        return frozenset()
    known = {*sources, *table.vectors, *table.maps}
    return frozenset(key for key, each in side_inputs_of(inputs).items() if known.isdisjoint({key, each.name}))


def _gather(
    table: Table,
    inputs: Mapping[str, Input],
    sources: Mapping[str, str],
    policy: MissingPolicy,
    network: MultiStream,
    settings: DataSettings,
) -> SideInputs:
    """Reads vectors and maps. Missing ones are filled in; the policy replaces these values later."""
    own: MissingVectors = "error" if policy.is_asked_for else settings.missing_vectors
    missing: Mapping[str, MissingVectors] = {"error": own, "zero": "zero"}
    names = names_of(inputs)
    return gather(
        table,
        inputs,
        {name: path for name, path in sources.items() if name in names},  # omits those of streams that are left out
        missing=missing.get(policy.policy, "mean"),
        means=network.raw_means,
        maps_may_lack=policy.fills_maps,
        resize=settings.resize,
    )
