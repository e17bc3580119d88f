"""Faithfulness of maps: deletion and insertion, compared with noise maps, with intervals over the photos.

Pixels are removed in descending order of the map (deletion), or inserted in the same order (insertion), while the
probability of the explained class is measured (Petsiuk et al. 2018). With a faithful map the deletion curve falls early
and the insertion curve rises early: the area under the first is small, the area under the second is large.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.functional import gaussian_blur

from multistream.bootstrap import Interval, paired_bootstrap
from multistream.explaining.gradients import Score
from multistream.inputs import Image
from multistream.network.network import MultiStream
from multistream.nn.modules import evaluating
from multistream.nn.nested import take_rows
from multistream.records import JsonRecord
from multistream.runtime.device import Runtime

Answer = Callable[[Tensor, Tensor], Tensor]
"""Images (n, C, H, W), and the rows of the batch that they were made from (n,) -> the score of each, (n,)."""

Absent = Literal["blur", "mean"]

BLUR = 1 / 16
"""The blur's standard deviation as a fraction of an image's side: removes objects and keeps the brightness."""


@dataclass(frozen=True)
class PerturbationCurves:
    """The scores (B, P) at the `fractions` (P,) of changed pixels."""

    fractions: Tensor
    deletion: Tensor
    insertion: Tensor

    @property
    def deletion_area(self) -> Tensor:
        """The area under the deletion curve, (B,)."""
        return torch.trapezoid(self.deletion, self.fractions, dim=1)

    @property
    def insertion_area(self) -> Tensor:
        """The area under the insertion curve, (B,)."""
        return torch.trapezoid(self.insertion, self.fractions, dim=1)


def without_detail(pictures_BCHW: Tensor, kind: Absent) -> Tensor:
    """Returns the replacement of removed pixels, in the images' dtype: a strong blur, or the mean of each channel.

    >>> without_detail(torch.tensor([[[[0.0, 4.0]]]]), "mean").tolist()
    [[[[2.0, 2.0]]]]
    """
    pixels = pictures_BCHW.float()
    if kind == "mean":
        gone = pixels.mean((2, 3), keepdim=True).expand_as(pixels)
    else:
        side = min(pixels.shape[-2:])
        sigma = max(0.5, side * BLUR)
        kernel = min(2 * round(2 * sigma) + 1, side - 1 + side % 2)  # odd, within the reflection padding
        gone = gaussian_blur(pixels, [kernel, kernel], [sigma, sigma])
    return gone if pictures_BCHW.is_floating_point() else gone.round().to(pictures_BCHW.dtype)


def perturbation_curves(
    answer: Answer,
    pictures_BCHW: Tensor,
    *,
    maps_BHW: Tensor,
    absent_BCHW: Tensor,
    steps: int = 20,
    chunk: int = 32,
) -> PerturbationCurves:
    """Computes deletion and insertion curves in at most `steps` steps of equal size, `chunk` images at a time.

    Pixels of equal value are ordered row by row. Raises ValueError if shapes differ.

    >>> x = torch.tensor([[[[0.4, 0.3], [0.2, 0.1]]]])
    >>> found = perturbation_curves(lambda p, rows: p.sum((1, 2, 3)), x, maps_BHW=x[:, 0],
    ...                             absent_BCHW=torch.zeros_like(x), steps=2)
    >>> round(found.deletion_area.item(), 4), round(found.insertion_area.item(), 4)
    (0.4, 0.6)
    """
    size, pixels = len(pictures_BCHW), maps_BHW[0].numel()
    if maps_BHW.shape != (size, *pictures_BCHW.shape[2:]) or absent_BCHW.shape != pictures_BCHW.shape:
        raise ValueError(
            f"maps {tuple(maps_BHW.shape)}, pictures {tuple(pictures_BCHW.shape)} and replacements "
            f"{tuple(absent_BCHW.shape)} must have one size."
        )
    device = pictures_BCHW.device
    order = maps_BHW.flatten(1).to(device).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(pixels, device=device).expand_as(order))
    step = -(-pixels // steps)
    counts = torch.tensor([*range(0, pixels, step), pixels], device=device)
    inner = counts[1:-1].tolist()
    # The full and the empty image are the ends of both curves: each is evaluated once.
    inserts = torch.tensor([True, False, *[False] * len(inner), *[True] * len(inner)], device=device).repeat(size)
    points = torch.tensor([pixels, pixels, *inner, *inner], device=device).repeat(size)
    of_row = torch.arange(size, device=device).repeat_interleave(len(points) // size)
    values = []
    for rows, inserting, limits in zip(of_row.split(chunk), inserts.split(chunk), points.split(chunk), strict=True):
        kept = ((rank[rows] < limits[:, None]) == inserting[:, None]).view(-1, 1, *pictures_BCHW.shape[2:])
        values.append(answer(torch.where(kept, pictures_BCHW[rows], absent_BCHW[rows]), rows).float().cpu())
    scores = torch.cat(values).view(size, -1)
    whole, nothing, deleted, inserted = scores.split([1, 1, len(inner), len(inner)], dim=1)
    fractions = counts.cpu().float() / pixels
    return PerturbationCurves(
        fractions, torch.cat([whole, deleted, nothing], dim=1), torch.cat([nothing, inserted, whole], dim=1)
    )


MapsByStream = Mapping[str, Tensor]
"""{name of the stream or streams: maps (B, S, S)}"""


@dataclass(frozen=True)
class CurveArea(JsonRecord):
    """The mean area under a curve over N photos, that of noise maps, and the paired difference (map - noise)."""

    value: float
    ci95: Interval
    noise: float
    difference: float
    difference_ci95: Interval


@dataclass(frozen=True)
class Faithfulness(JsonRecord):
    """The deletion and insertion areas of a map over `n` photos, with pixels replaced by `absent`.

    Deletion: lower is better, its difference from noise is below 0. Insertion: higher is better, above 0.
    """

    name: str
    n: int
    absent: Absent
    steps: int
    deletion: CurveArea
    insertion: CurveArea


class FaithfulnessMeter:
    """Collects curves batch by batch, and computes their means and intervals at the end.

    Each map is compared with an interpolated noise map of `cells` x `cells` values: noise in single pixels would remove
    detail everywhere in the photo, unlike a map of regions.
    """

    def __init__(self, *, absent: Absent = "blur", steps: int = 20, chunk: int = 32, cells: int = 7, seed: int = 0):
        self.absent, self.steps, self.chunk, self.cells = absent, steps, chunk, cells
        self.generator = torch.Generator().manual_seed(seed)
        self.areas: dict[str, list[Tensor]] = {}

    def add(self, answer: Answer, pictures_BCHW: Tensor, maps: MapsByStream) -> dict[str, PerturbationCurves]:
        """Measures the maps of one batch; all share the replacement image and one noise map for each photo."""
        gone = without_detail(pictures_BCHW, self.absent)
        side = pictures_BCHW.shape[2:]
        coarse = torch.rand(len(pictures_BCHW), 1, self.cells, self.cells, generator=self.generator)
        noise = functional.interpolate(coarse, side, mode="bilinear", align_corners=False)[:, 0]
        by_name = {
            name: perturbation_curves(
                answer, pictures_BCHW, maps_BHW=each, absent_BCHW=gone, steps=self.steps, chunk=self.chunk
            )
            for name, each in {**maps, "": noise}.items()
        }
        of_noise = by_name.pop("")
        for name, curves in by_name.items():
            both = (curves.deletion_area, of_noise.deletion_area, curves.insertion_area, of_noise.insertion_area)
            self.areas.setdefault(name, []).append(torch.stack(both, dim=1))
        return by_name

    def results(self) -> tuple[Faithfulness, ...]:
        """Returns one result for each name of a map."""
        results = []
        for name, parts in self.areas.items():
            table = torch.cat(parts).double().numpy()
            deletion, insertion = _area(table[:, 0], table[:, 1]), _area(table[:, 2], table[:, 3])
            results.append(Faithfulness(name, len(table), self.absent, self.steps, deletion, insertion))
        return tuple(results)


def _area(own: NDArray[np.float64], noise: NDArray[np.float64]) -> CurveArea:
    difference = own - noise
    return CurveArea(
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
    """Returns a function that scores the network's output with other images in the streams `keys`.

    `score` gets the rows of the batch (n,) and returns a function of their logits. The other streams run only once.
    """
    others = {key: branch for key, branch in network.branches.items() if key not in keys}
    with evaluating(network), torch.no_grad(), runtime.autocast:
        still = {key: branch.pool(batch[branch.entry(key, batch)]) for key, branch in others.items()}

    def answer(pictures: Tensor, rows: Tensor) -> Tensor:
        with evaluating(network), torch.no_grad():
            with runtime.autocast:
                pooled = take_rows(still, rows) | {key: network.branches[key].pool(pictures) for key in keys}
            return score(rows)(network.classify(pooled))

    return answer


def photo_streams(network: MultiStream) -> tuple[str, ...]:
    """Returns the keys of the streams that read the photo."""
    return tuple(key for key, branch in network.branches.items() if isinstance(branch.stream.input, Image))
