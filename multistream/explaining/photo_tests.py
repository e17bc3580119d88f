"""Tests of explanations on photos in one pass: faithfulness, and localisation with masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from multistream.errors import DataError, UsageError
from multistream.explaining.explanation import ExplainedBatch
from multistream.explaining.faithfulness import Faithfulness, FaithfulnessMeter, answering, photo_streams
from multistream.explaining.gradients import Score
from multistream.explaining.localisation import Localisation, LocalisationMeter, ReadMask, masks_of
from multistream.explaining.pipeline import Explainer
from multistream.inputs import Image
from multistream.records import JsonRecord


@dataclass(frozen=True)
class PhotoTests(JsonRecord):
    """The results over `n` photos; `left_out` further photos could not be used."""

    n: int
    left_out: int
    method: str
    faithfulness: tuple[Faithfulness, ...]
    localisation: tuple[Localisation, ...]


def measure_on_photos(
    explainer: Explainer, *, faithfulness: bool = True, masks: str = "", tick: Callable[[int], None] = lambda _: None
) -> PhotoTests:
    """Explains the photos once for all tests.

    Raises DataError if no photo can be used or a mask is missing, UsageError if no stream reads photos or photos may
    have several labels.
    """
    if explainer.model.network.label_sets:
        what = "these tests follow the probability of one class, and a photo may have several labels here."
        raise UsageError("test-explanation", what)
    size = max(
        (stream_input.size for stream_input in explainer.model.inputs.values() if isinstance(stream_input, Image)),
        default=0,
    )
    if not size:
        option = "--faithfulness" if faithfulness else "--masks"
        raise UsageError(option, "no stream of this run reads photos.", right="These tests change pixels.")
    faithful, local = FaithfulnessMeter(), LocalisationMeter()
    meters: list[Callable[[ExplainedBatch], None]] = []
    if faithfulness:
        meters.append(partial(_measure_faithfulness, faithful, explainer, size=size))
    if masks:
        read_mask = masks_of(explainer.selection.table, masks, size=size, resize=explainer.settings.resize)
        meters.append(partial(_measure_localisation, local, explainer, read_mask=read_mask, size=size))
    n = _run(explainer, meters, tick)
    if not n:
        raise DataError("test-explanation", "no photo could be read.", do="multistream data scan says why.")
    left_out = len(explainer.selection) - n
    return PhotoTests(n, left_out, explainer.request.method, faithful.results(), local.results())


def _run(explainer: Explainer, meters: Sequence[Callable[[ExplainedBatch], None]], tick: Callable[[int], None]) -> int:
    """Passes every batch to all meters, and returns the number of photos."""
    n = 0
    for batch in explainer.batches():
        for measure in meters:
            measure(batch)
        n += len(batch.rows)
        tick(len(batch.rows))
    return n


def _measure_faithfulness(meter: FaithfulnessMeter, explainer: Explainer, batch: ExplainedBatch, *, size: int) -> None:
    """Adds a batch: the summed maps of all photo streams and, if there are several, the maps of each stream."""
    network = explainer.model.network
    keys, densities = photo_streams(network), batch.attribution.densities(size)
    maps = {"all photo streams" if len(keys) > 1 else keys[0]: torch.stack([densities[k] for k in keys]).sum(0)}
    if len(keys) > 1:
        maps |= {f"{key} alone": densities[key] for key in keys}
    targets = batch.attribution.columns.rows.to(explainer.runtime.device)

    def score(rows: torch.Tensor) -> Score:
        places = torch.arange(len(rows), device=targets.device)
        return lambda logits: network.probabilities(logits)[places, targets[rows]]

    answer = answering(network, batch.batch, keys=keys, score=score, runtime=explainer.runtime)
    meter.add(answer, batch.batch["image"], maps)


def _measure_localisation(
    meter: LocalisationMeter, explainer: Explainer, batch: ExplainedBatch, *, read_mask: ReadMask, size: int
) -> None:
    inside = torch.from_numpy(np.stack([read_mask(row) for row in batch.rows]))
    densities = batch.attribution.densities(size)
    for key in photo_streams(explainer.model.network):
        meter.add(key, densities[key], inside)
