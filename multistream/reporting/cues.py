"""The demo set's planted cues: does the evidence lie where it was put? Only there is the right answer known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.data.demo import Cues, demo_cues
from multistream.explaining.decomposition import decompose
from multistream.explaining.pointing import density, energy_in, points_into
from multistream.reporting.measuring import Measured, batches
from multistream.statistics import Interval, paired_bootstrap, percentile_interval, resampled_means, wilson

NAMES = ("sun or drop", "zigzags or bands", "adjective-noun pairs")
BATCH = 32


@dataclass(frozen=True)
class Share:
    """A share of photos or of evidence, its interval, and what chance gives."""

    value: float
    ci95: Interval
    chance: float


@dataclass(frozen=True)
class Cue:
    """One planted bit, through the contrast of a photo's class with the class that differs in this bit alone."""

    name: str
    n: int
    shapley: Mapping[str, tuple[float, Interval]]
    """{key: (mean over the photos, interval)} of the stream's Shapley value for the contrast; chance level 0."""
    pointing: Mapping[str, Share]
    """{key: pointing game}, of the image streams for the cues that have a place."""
    energy: Mapping[str, Share]
    """{key: mean share of the positive evidence that lies in the cue's place}, likewise."""
    planted: Mapping[str, Share]
    """{key: share of the absolute contributions that lies on the photo's own planted entries}, for the vectors' cue."""
    weighed: Mapping[str, Share]
    """{key: share of the absolute contributions that lies on the entries that ever carry the cue}, likewise."""
    carried: Mapping[str, Share]
    """{key: share of the sum of all contributions, with their signs, that lies on those entries}, likewise."""


def measure_cues(measured: Measured) -> list[Cue]:
    """Object, texture and vector over the whole test part of the demo set."""
    cues = demo_cues(measured.table)
    labels = measured.table.labels
    flipped = _flipped(cues, labels)
    streams = measured.attribution().streams.cpu().numpy()
    keys = list(measured.model.network.branches)
    every = np.arange(len(labels))
    found = []
    maps, vectors = _contrasts(measured, cues, flipped)
    carriers = np.unique(cues.planted)
    for bit, name in enumerate(NAMES):
        contrast = streams[every, labels] - streams[every, flipped[:, bit]]
        shapley = {key: (float(v.mean()), paired_bootstrap(v)) for key, v in zip(keys, contrast.T, strict=True)}
        placed = {key: torch.cat(hits[bit]).numpy() for key, hits in maps.items()} if bit < 2 else {}
        given = vectors if bit == 2 else {}
        found.append(
            Cue(
                name,
                len(labels),
                shapley,
                pointing={key: _pointing(hits[:, 0], cues, bit) for key, hits in placed.items()},
                energy={key: _energy(hits[:, 1], cues, bit) for key, hits in placed.items()},
                planted={key: _weighed(each, cues.planted) for key, each in given.items()},
                weighed={key: _weighed(each, np.tile(carriers, (len(each), 1))) for key, each in given.items()},
                carried={key: _carried(each, carriers) for key, each in given.items()},
            )
        )
    return found


def _flipped(cues: Cues, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N, 3): the class that differs from a photo's own in one bit."""
    classes = {tuple(bits): int(label) for bits, label in zip(cues.bits.tolist(), labels, strict=True)}
    return np.array(
        [
            [classes[tuple(b != (i == bit) for i, b in enumerate(bits))] for bit in range(3)]
            for bits in cues.bits.tolist()
        ]
    )


def _contrasts(
    measured: Measured, cues: Cues, flipped: NDArray[np.int64]
) -> tuple[dict[str, list[list[Tensor]]], dict[str, NDArray[np.float64]]]:
    """By stream: for each bit batches (B, 2) of pointing game hits and energies; what entries gave, (N, D)."""
    labels = torch.from_numpy(measured.table.labels)
    objects = torch.from_numpy(cues.objects)
    others = torch.from_numpy(flipped)
    hits: dict[str, list[list[Tensor]]] = {}
    vectors: dict[str, list[Tensor]] = {}
    for batch in batches(measured, list(range(len(labels))), size=BATCH):
        rows = batch.pop("index")
        found = decompose(measured.model.network, batch, runtime=measured.runtime)
        b = torch.arange(len(rows))
        for key, stages in found.maps.items():
            for bit in (0, 1):
                cpu = [m.cpu() for m in stages.values()]
                contrast = [m[b, labels[rows]] - m[b, others[rows, bit]] for m in cpu]
                mask = objects[rows] if bit == 0 else ~objects[rows]
                whole = density(contrast, size=mask.shape[-1])
                both = torch.stack([points_into(whole, mask).double(), energy_in(whole, mask)], dim=1)
                hits.setdefault(key, [[], []])[bit].append(both)
        for key, given in found.vectors.items():
            contrast_BD = given.cpu()[b, labels[rows]] - given.cpu()[b, others[rows, 2]]
            vectors.setdefault(key, []).append(contrast_BD.double())
    return hits, {key: torch.cat(parts).numpy() for key, parts in vectors.items()}


def _area(cues: Cues, bit: int) -> float:
    """The share of the pixels in which a cue lies: the object's box, or what is outside it."""
    inside = float(cues.objects.mean())
    return inside if bit == 0 else 1 - inside


def _pointing(hits_N: NDArray[np.float64], cues: Cues, bit: int) -> Share:
    n, right = len(hits_N), int(hits_N.sum())
    return Share(right / n, wilson(right, n), _area(cues, bit))


def _energy(shares_N: NDArray[np.float64], cues: Cues, bit: int) -> Share:
    """Photos without any positive evidence have no share of it."""
    known = shares_N[~np.isnan(shares_N)]
    return Share(float(known.mean()), paired_bootstrap(known), _area(cues, bit))


def _weighed(given_ND: NDArray[np.float64], entries_NP: NDArray[np.int64]) -> Share:
    size = np.abs(given_ND)
    shares = np.take_along_axis(size, entries_NP, axis=1).sum(axis=1) / size.sum(axis=1)
    return Share(float(shares.mean()), paired_bootstrap(shares), entries_NP.shape[1] / size.shape[1])


def _carried(given_ND: NDArray[np.float64], entries: NDArray[np.int64]) -> Share:
    """Errors of the other entries' weights cancel over the photos, for these entries know nothing of the class."""
    sums = np.stack([given_ND[:, entries].sum(axis=1), given_ND.sum(axis=1)], axis=1)
    above, below = sums.mean(axis=0)
    drawn = resampled_means(sums)
    return Share(float(above / below), percentile_interval(drawn[:, 0] / drawn[:, 1]), len(entries) / given_ND.shape[1])
