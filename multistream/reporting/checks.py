"""What must hold of a run and its page, each with the residual that was measured on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from multistream.reporting.evidence import Evidence
from multistream.reporting.facts import Facts
from multistream.reporting.measuring import Measured


@dataclass(frozen=True)
class Check:
    """A promise, what was measured and the most that it may be."""

    promise: str
    measured: float
    limit: float
    about: str

    @property
    def holds(self) -> bool:
        """Whether what was measured lies within the limit."""
        return self.measured <= self.limit


def run_checks(facts: Facts, measured: Measured | None, evidence: Evidence | None) -> list[Check]:
    """All checks that can be made with what is there."""
    found = [
        Check("No file lies in two parts", float(len(facts.shared)), 0, "by sha256, over the whole split"),
    ]
    if measured is not None:
        found += _of_measured(facts, measured)
    if evidence is not None:
        found += _of_evidence(evidence, photos=len(evidence.data["photos"]))
    return found


def _of_measured(facts: Facts, measured: Measured) -> list[Check]:
    told = facts.result.predictions.probabilities
    game = measured.attribution()
    gap = (game.streams.sum(-1) - (game.everybody - game.nobody)).abs().max()
    limit = 1e-5 if measured.runtime.precision == "fp32" else 2e-2
    n = f"{len(told):,} photos"
    return [
        Check(
            "The test photos are unchanged",
            float(measured.changed),
            0,
            f"files with other bytes than split.csv recorded, of {n}",
        ),
        Check(
            "The network repeats its predictions",
            float(np.abs(measured.probabilities - told).max()),
            limit,
            f"largest difference of a probability, {n}, {measured.runtime}",
        ),
        Check(
            "Shapley values sum to what all streams give together",
            float(gap),
            1e-6 * max(1.0, float(game.everybody.abs().max())),
            f"largest gap in logits, {n}, all classes",
        ),
    ]


def _of_evidence(evidence: Evidence, *, photos: int) -> list[Check]:
    whose = f"{photos} photos, all classes"
    local = [key for key, exact in evidence.exact.items() if not exact]
    note = f"; of {', '.join(local)} the sum is local and closes by construction" if local else ""
    found = [
        Check(
            "Maps, entries and bias sum to the logit",
            evidence.residual,
            1e-5,
            f"largest gap, relative to max(1, |logit|), {whose}{note}",
        ),
        Check(
            "Stored maps are what was computed",
            evidence.rounding,
            0.5 / 127 + 1e-5,
            "largest error, share of the largest cell",
        ),
    ]
    if evidence.mean_gap is not None:
        found.append(
            Check("The fused probability is the mean of the streams'", evidence.mean_gap, 1e-6, f"largest gap, {whose}")
        )
    return found
