"""Checks of a run and its page, each with the measured residual."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from multistream.explaining.decomposition import TOLERANCE
from multistream.reporting.gallery_data import GalleryData
from multistream.reporting.outputs import NetworkOutputs
from multistream.reporting.run_details import RunDetails


@dataclass(frozen=True)
class ReportCheck:
    """A property, its measured value and the largest allowed value."""

    name: str
    measured: float
    limit: float
    about: str

    @property
    def passed(self) -> bool:
        """Whether the measured value is within the limit; NaN never is."""
        return self.measured <= self.limit


def run_checks(details: RunDetails, outputs: NetworkOutputs | None, gallery: GalleryData | None) -> list[ReportCheck]:
    """Runs the checks whose measurements exist: without images, only those of the split."""
    checks = [
        ReportCheck(
            "No file is in two splits", float(len(details.shared)), 0, "compared by SHA-256, over all three splits"
        )
    ]
    if outputs is not None:
        checks += _check_outputs(details, outputs)
    if gallery is not None:
        checks += _check_gallery(gallery)
    return checks


def _check_outputs(details: RunDetails, outputs: NetworkOutputs) -> list[ReportCheck]:
    recorded = details.result.predictions.probabilities
    game = outputs.attribution()
    gap = (game.streams.sum(-1) - (game.full - game.empty)).abs().max()
    n = f"{len(recorded):,} images"
    return [
        ReportCheck(
            "The test images are unchanged",
            float(outputs.changed),
            0,
            f"files whose SHA-256 differs from split.csv, {n}",
        ),
        ReportCheck(
            "The network reproduces predictions.csv",
            float(np.abs(outputs.probabilities - recorded).max()),
            1e-5 if outputs.runtime.precision == "fp32" else 2e-2,
            f"largest difference in any probability, {n}, {outputs.runtime}",
        ),
        ReportCheck(
            "Shapley values sum to the logit with all streams minus the logit with none",
            float(gap),
            1e-6 * max(1.0, float(game.full.abs().max())),
            f"largest difference in logits, {n}, all classes",
        ),
    ]


def _check_gallery(gallery: GalleryData) -> Iterator[ReportCheck]:
    n = f"{len(gallery.content['photos'])} images, all classes"
    if gallery.residuals:
        name, about = "Contributions and bias sum to the logit", ", ".join(gallery.residuals)
        about += f": largest difference, relative to max(1, |logit|), {n}"
        yield ReportCheck(name, max(gallery.residuals.values()), TOLERANCE, about)
    about = "largest error, as a fraction of the largest cell value"
    yield ReportCheck(
        "The maps stored in this page match the computed maps up to rounding", gallery.rounding, 0.5 / 127 + 1e-5, about
    )
    if gallery.mean_gap is not None:
        name = "The fused probability is the mean of the streams' probabilities"
        yield ReportCheck(name, gallery.mean_gap, 1e-6, f"largest difference, {n}")
