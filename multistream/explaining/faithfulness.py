"""Faithfulness of maps on photos: deletion and insertion, against maps of noise, with intervals over the photos."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from multistream.explaining.curves import Absent, Answer, Curves, perturbation_curves, without_evidence
from multistream.explaining.gradients import Score
from multistream.inputs import Image
from multistream.network.network import MultiStream
from multistream.nn.eval_mode import evaluating
from multistream.runtime.device import Runtime
from multistream.statistics import Interval, paired_bootstrap

MapsOf = Mapping[str, Tensor]
"""{what is explained: maps (B, S, S)}"""


@dataclass(frozen=True)
class Area:
    """The mean area below a curve over N photos, that of maps of noise, and the paired difference (map - noise)."""

    value: float
    ci95: Interval
    noise: float
    difference: float
    difference_ci95: Interval


@dataclass(frozen=True)
class Faithfulness:
    """How the probability of the explained class follows a map's pixels, for `n` photos.

    Deletion: lower is better, its difference to noise below 0. Insertion: higher is better, its difference above 0.
    """

    name: str
    n: int
    absent: Absent
    steps: int
    deletion: Area
    insertion: Area

    def to_dict(self) -> dict[str, Any]:
        """An object of `explain --faithfulness --json`."""
        return asdict(self)


class FaithfulnessMeter:
    """Collects curves batch by batch, and makes means and intervals of them at the end.

    Each map is held against a map of noise that is as coarse as `cells` says (pixels of noise would take a photo's
    detail away everywhere at once, which no map of regions does).
    """

    def __init__(self, *, absent: Absent = "blur", steps: int = 20, chunk: int = 32, cells: int = 7, seed: int = 0):
        self.absent, self.steps, self.chunk, self.cells = absent, steps, chunk, cells
        self.generator = torch.Generator().manual_seed(seed)
        self.areas: dict[str, list[Tensor]] = {}

    def add(self, answer: Answer, pictures_BCHW: Tensor, maps: MapsOf) -> dict[str, Curves]:
        """Measures maps of one batch; all share what stands for absence, and one map of noise a photo."""
        gone = without_evidence(pictures_BCHW, self.absent)
        side = pictures_BCHW.shape[2:]
        coarse = torch.rand(len(pictures_BCHW), 1, self.cells, self.cells, generator=self.generator)
        noise = functional.interpolate(coarse, side, mode="bilinear", align_corners=False)[:, 0]
        found = {
            name: perturbation_curves(
                answer, pictures_BCHW, maps_BHW=each, absent_BCHW=gone, steps=self.steps, chunk=self.chunk
            )
            for name, each in {**maps, "": noise}.items()
        }
        against = found.pop("")
        for name, curves in found.items():
            both = (curves.deletion_area, against.deletion_area, curves.insertion_area, against.insertion_area)
            self.areas.setdefault(name, []).append(torch.stack(both, dim=1))
        return found

    def results(self) -> tuple[Faithfulness, ...]:
        """One for each kind of map."""
        made = []
        for name, parts in self.areas.items():
            table = torch.cat(parts).double().numpy()
            deletion, insertion = _area(table[:, 0], table[:, 1]), _area(table[:, 2], table[:, 3])
            made.append(Faithfulness(name, len(table), self.absent, self.steps, deletion, insertion))
        return tuple(made)


def _area(own: NDArray[np.float64], noise: NDArray[np.float64]) -> Area:
    difference = own - noise
    return Area(
        float(own.mean()),
        paired_bootstrap(own),
        float(noise.mean()),
        float(difference.mean()),
        paired_bootstrap(difference),
    )


def answering(
    network: MultiStream,
    batch: Mapping[str, Tensor],
    *,
    keys: Sequence[str],
    score: Callable[[Tensor], Score],
    runtime: Runtime,
) -> Answer:
    """The network's answer when the pictures of the streams `keys` are others and all else of a batch stays.

    `score` gets the rows of the batch (n,) and gives what reads their logits. The other streams run once.
    """
    others = {key: branch for key, branch in network.branches.items() if key not in keys}
    with evaluating(network), torch.no_grad(), runtime.autocast:
        still = {key: branch.pool(batch[branch.entry(key, batch)]) for key, branch in others.items()}

    def answer(pictures: Tensor, rows: Tensor) -> Tensor:
        with evaluating(network), torch.no_grad():
            with runtime.autocast:
                pooled = {
                    key: {stage: p[rows] for stage, p in still[key].items()} if key in still else branch.pool(pictures)
                    for key, branch in network.branches.items()
                }
            return score(rows)(network.classify(pooled))

    return answer


def photo_streams(network: MultiStream) -> tuple[str, ...]:
    """The streams that look at the photo itself."""
    return tuple(key for key, branch in network.branches.items() if isinstance(branch.stream.input, Image))
