"""Attributions of the demo set's planted cues, compared with the known cues."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.bootstrap import Interval, paired_bootstrap, percentile_interval, resampled_means
from multistream.data.demo import Cues, demo_cues
from multistream.explaining.attribution import density
from multistream.explaining.decomposition import decompose
from multistream.explaining.localisation import energy_in, points_into
from multistream.reporting.outputs import NetworkOutputs, batches
from multistream.statistics import wilson

NAMES = ("sun or drop", "zigzags or bands", "adjective-noun pairs")
BATCH = 32


@dataclass(frozen=True)
class CueFraction:
    """A fraction of images or of an attribution, its interval, and the value expected by chance."""

    value: float
    ci95: Interval
    chance: float


@dataclass(frozen=True)
class CueResult:
    """One planted bit: attributions of the difference between an image's class and the class with this bit flipped."""

    name: str
    n: int
    shapley: Mapping[str, tuple[float, Interval]]
    """{key: (mean over the images, interval)} of the stream's Shapley value for the difference; 0 by chance."""
    pointing: Mapping[str, CueFraction] = field(default_factory=dict)
    """{key: result of the pointing game} of the image streams, for cues with a position."""
    energy: Mapping[str, CueFraction] = field(default_factory=dict)
    """{key: mean fraction of positive attribution inside the cue} of the image streams, for cues with a position."""
    planted: Mapping[str, CueFraction] = field(default_factory=dict)
    """{key: fraction of the absolute attribution on the image's planted entries}, for the cue in the vectors."""
    absolute: Mapping[str, CueFraction] = field(default_factory=dict)
    """{key: fraction of the absolute attribution on all entries that can have the cue}, for the cue in the vectors."""
    signed: Mapping[str, CueFraction] = field(default_factory=dict)
    """{key: fraction of the signed attribution on all entries that can have the cue}, for the cue in the vectors."""


def measure_cues(outputs: NetworkOutputs) -> list[CueResult]:
    """Measures the attributions of the three cues (object, texture, vector) over the demo set's test split."""
    cues = demo_cues(outputs.table)
    labels = outputs.table.labels
    flipped = _flipped(cues, labels)
    streams = outputs.attribution().streams.cpu().numpy()
    keys = list(outputs.model.network.branches)
    every = np.arange(len(labels))
    maps, vectors = _contrasts(outputs, cues, flipped)
    results = []
    for bit, name in enumerate(NAMES):
        contrast = streams[every, labels] - streams[every, flipped[:, bit]]
        shapley = {key: (float(v.mean()), paired_bootstrap(v)) for key, v in zip(keys, contrast.T, strict=True)}
        result = CueResult(name, len(labels), shapley)
        results.append(_with_vectors(result, vectors, cues) if bit == 2 else _with_maps(result, maps, cues, bit))
    return results


def _with_maps(result: CueResult, maps: Mapping[str, list[list[Tensor]]], cues: Cues, bit: int) -> CueResult:
    """Adds the localisation of a cue in the image by the streams' maps."""
    hits = {key: torch.cat(parts[bit]).numpy() for key, parts in maps.items()}
    return replace(
        result,
        pointing={key: _pointing(each[:, 0], cues, bit) for key, each in hits.items()},
        energy={key: _energy(each[:, 1], cues, bit) for key, each in hits.items()},
    )


def _with_vectors(result: CueResult, vectors: Mapping[str, NDArray[np.float64]], cues: Cues) -> CueResult:
    """Adds the fractions of the attribution on the entries with the cue in the vectors."""
    carriers = np.unique(cues.planted)
    return replace(
        result,
        planted={key: _absolute(each, cues.planted) for key, each in vectors.items()},
        absolute={key: _absolute(each, np.tile(carriers, (len(each), 1))) for key, each in vectors.items()},
        signed={key: _signed(each, carriers) for key, each in vectors.items()},
    )


def _flipped(cues: Cues, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns (N, 3): for each bit, the class that differs from the image's class in that bit only."""
    classes = {tuple(bits): int(label) for bits, label in zip(cues.bits.tolist(), labels, strict=True)}
    return np.array(
        [
            [classes[tuple(b != (i == bit) for i, b in enumerate(bits))] for bit in range(3)]
            for bits in cues.bits.tolist()
        ]
    )


def _contrasts(
    outputs: NetworkOutputs, cues: Cues, flipped: NDArray[np.int64]
) -> tuple[dict[str, list[list[Tensor]]], dict[str, NDArray[np.float64]]]:
    """Returns the attributions of the differences between each image's class and its flipped classes, by stream.

    For maps: a list of batches (B, 2), hit and energy inside the cue, for each of two bits. For vectors: the
    contributions (N, D).
    """
    labels = torch.from_numpy(outputs.table.labels)
    objects = torch.from_numpy(cues.objects)
    others = torch.from_numpy(flipped)
    hits: dict[str, list[list[Tensor]]] = {}
    vectors: dict[str, list[Tensor]] = {}
    for batch in batches(outputs, list(range(len(labels))), size=BATCH):
        rows = batch.pop("index")
        found = decompose(outputs.model.network, batch, runtime=outputs.runtime)
        b = torch.arange(len(rows))
        for key, stages in found.maps.items():
            cpu = [m.cpu() for m in stages.values()]
            for bit, mask in enumerate((objects[rows], ~objects[rows])):
                whole = density([m[b, labels[rows]] - m[b, others[rows, bit]] for m in cpu], size=mask.shape[-1])
                both = torch.stack([points_into(whole, mask).double(), energy_in(whole, mask)], dim=1)
                hits.setdefault(key, [[], []])[bit].append(both)
        for key, entries in found.vectors.items():
            contrast_BD = entries.cpu()[b, labels[rows]] - entries.cpu()[b, others[rows, 2]]
            vectors.setdefault(key, []).append(contrast_BD.double())
    return hits, {key: torch.cat(parts).numpy() for key, parts in vectors.items()}


def _area(cues: Cues, bit: int) -> float:
    """Returns the fraction of pixels in a cue: the object's box, or everything outside it."""
    inside = float(cues.objects.mean())
    return inside if bit == 0 else 1 - inside


def _pointing(hits_N: NDArray[np.float64], cues: Cues, bit: int) -> CueFraction:
    n, right = len(hits_N), int(hits_N.sum())
    return CueFraction(right / n, wilson(right, n), _area(cues, bit))


def _energy(fractions_N: NDArray[np.float64], cues: Cues, bit: int) -> CueFraction:
    """Averages the fractions; images without positive attribution (NaN) are not counted."""
    known = fractions_N[~np.isnan(fractions_N)]
    return CueFraction(float(known.mean()), paired_bootstrap(known), _area(cues, bit))


def _absolute(contributions_ND: NDArray[np.float64], entries_NP: NDArray[np.int64]) -> CueFraction:
    size = np.abs(contributions_ND)
    fractions = np.take_along_axis(size, entries_NP, axis=1).sum(axis=1) / size.sum(axis=1)
    return CueFraction(float(fractions.mean()), paired_bootstrap(fractions), entries_NP.shape[1] / size.shape[1])


def _signed(contributions_ND: NDArray[np.float64], entries: NDArray[np.int64]) -> CueFraction:
    """Divides mean contributions; those of the other entries are independent of the class and cancel over images."""
    sums = np.stack([contributions_ND[:, entries].sum(axis=1), contributions_ND.sum(axis=1)], axis=1)
    above, below = sums.mean(axis=0)
    drawn = resampled_means(sums)
    return CueFraction(
        float(above / below), percentile_interval(drawn[:, 0] / drawn[:, 1]), len(entries) / contributions_ND.shape[1]
    )
