"""Tests of explanations on photos, in one pass: faithfulness, and localisation against masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from multistream.errors import DataError, UsageError
from multistream.explaining.explanation import ExplainedBatch
from multistream.explaining.faithfulness import Faithfulness, FaithfulnessMeter, answering, photo_streams
from multistream.explaining.gradients import Score
from multistream.explaining.localisation import Localisation, LocalisationMeter, ReadMask, masks_of
from multistream.explaining.pipeline import Explainer
from multistream.inputs import Image


@dataclass(frozen=True)
class PhotoTests:
    """The results of `n` photos, of which `left_out` could not be used."""

    n: int
    left_out: int
    method: str
    faithfulness: tuple[Faithfulness, ...]
    localisation: tuple[Localisation, ...]

    def to_dict(self) -> dict[str, Any]:
        """The object of `test-explanation --json`, under "photos"."""
        return {
            "n": self.n,
            "left_out": self.left_out,
            "method": self.method,
            "faithfulness": [each.to_dict() for each in self.faithfulness],
            "localisation": [each.to_dict() for each in self.localisation],
        }


def measure_on_photos(
    explainer: Explainer, *, faithfulness: bool = True, masks: str = "", tick: Callable[[int], None] = lambda _: None
) -> PhotoTests:
    """Explains the photos once for all tests. DataError where no photo can be used, or a mask is missing.

    UsageError where no stream reads photos.
    """
    if explainer.model.network.label_sets:
        what = "these tests follow the probability of one class, and a photo may have several labels here."
        raise UsageError("test-explanation", what)
    sizes = [each.size for each in explainer.model.inputs.values() if isinstance(each, Image)]
    if not sizes:
        option = "--faithfulness" if faithfulness else "--masks"
        raise UsageError(option, "no stream of this run reads photos.", right="These tests change pixels.")
    table, resize, size = explainer.selection.table, explainer.settings.resize, max(sizes)
    read_mask = masks_of(table, masks, size=size, resize=resize) if masks else None
    faithful = FaithfulnessMeter() if faithfulness else None
    local, n = LocalisationMeter(), 0
    for batch in explainer.batches():
        if faithful:
            _measure_faithfulness(faithful, explainer, batch, size=size)
        if read_mask:
            _measure_localisation(local, explainer, batch, read_mask, size=size)
        n += len(batch.rows)
        tick(len(batch.rows))
    if not n:
        raise DataError("test-explanation", "no photo could be read.", do="multistream data scan says why.")
    return PhotoTests(
        n=n,
        left_out=len(explainer.selection) - n,
        method=explainer.request.method,
        faithfulness=faithful.results() if faithful else (),
        localisation=local.results() if masks else (),
    )


def _measure_faithfulness(meter: FaithfulnessMeter, explainer: Explainer, batch: ExplainedBatch, *, size: int) -> None:
    """Adds a batch: the maps of all photo streams together, and of each by itself if there are several."""
    network = explainer.model.network
    keys, densities = photo_streams(network), batch.attribution.densities(size)
    maps = {"all photo streams" if len(keys) > 1 else keys[0]: torch.stack([densities[k] for k in keys]).sum(0)}
    if len(keys) > 1:
        maps |= {f"{key} alone": densities[key] for key in keys}
    targets = batch.attribution.columns.rows.to(explainer.runtime.device)

    def score(rows: torch.Tensor) -> Score:
        return lambda logits: logits.softmax(1)[torch.arange(len(rows), device=logits.device), targets[rows]]

    answer = answering(network, batch.batch, keys=keys, score=score, runtime=explainer.runtime)
    meter.add(answer, batch.batch["image"], maps)


def _measure_localisation(
    meter: LocalisationMeter, explainer: Explainer, batch: ExplainedBatch, read_mask: ReadMask, *, size: int
) -> None:
    inside = torch.from_numpy(np.stack([read_mask(row) for row in batch.rows]))
    densities = batch.attribution.densities(size)
    for key in photo_streams(explainer.model.network):
        meter.add(key, densities[key], inside)
