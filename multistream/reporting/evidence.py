"""The gallery's data: for each photo where the evidence lies, small enough that two dozen photos fit into a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.data.filenames import printable
from multistream.explaining.decomposition import Decomposition, decompose
from multistream.inputs import Vector
from multistream.nn.eval_mode import evaluating
from multistream.reporting.choosing import shown_classes
from multistream.reporting.measuring import Measured, batches
from multistream.reporting.packing import affordable_side, pack
from multistream.reporting.pictures import Picture, picture

MAP_BYTES = 22_000
"""What the maps of a photo may take, before base64 makes four bytes of three."""
CLASSES = 12
"""Classes of a photo that are explained, where the run knows more: its label and the most probable."""
ENTRIES = 8
"""Entries of a vector that are named, those that gave most."""


@dataclass(frozen=True)
class Evidence:
    """What the page's script reads, and the residuals that were measured on the way."""

    data: Mapping[str, Any]
    pictures: Sequence[Picture]
    exact: Mapping[str, bool]
    """{key: whether its maps or entries sum exactly to the logit by construction}"""
    residual: float
    """The largest relative |logit - sum of its parts|."""
    rounding: float
    """The largest error of a stored cell, as a share of the largest cell of its stage."""
    mean_gap: float | None
    """Of late fusion: the largest |fused probability - mean of the streams'|."""


def gather_evidence(measured: Measured, rows: Sequence[int]) -> Evidence:
    """Decomposes the photos of these rows, a few at a time."""
    every, labels = measured.probabilities, measured.table.labels
    kept = {row: shown_classes(every[row], int(labels[row]), most=CLASSES) for row in rows}
    shapes = _shapes(measured)
    budget = max(len(classes) for classes in kept.values())
    side = affordable_side((s for stages in shapes.values() for s in stages.values()), classes=budget, budget=MAP_BYTES)
    shapley = measured.attribution(np.array(rows, dtype=np.int64)).streams.cpu()
    work = _Work(measured, side)
    photos: list[dict[str, Any]] = []
    for batch in batches(measured, list(rows), size=4):
        index = batch.pop("index").tolist()
        found = decompose(measured.model.network, batch, runtime=measured.runtime)
        work.note(found)
        for b, row in enumerate(index):
            given = _rounded(shapley[len(photos)][kept[row]])
            photos.append({**_about(measured, row), **work.photo(found, b, kept[row]), "shapley": given})
    decoder = measured.photos.decoder
    return Evidence(
        data={
            "classes": list(measured.model.classes),
            "streams": [work.stream(key, shapes.get(key, {})) for key in measured.model.network.branches],
            "typical": {
                key: typical(measured, key, whole="" in work.targets)
                for key in measured.model.network.branches
                if work.exact[key]
            },
            "words": work.words,
            "photos": photos,
        },
        pictures=[picture(decoder, measured.table.path(row)) for row in rows] if decoder else [],
        exact=work.exact,
        residual=work.residual,
        rounding=work.rounding,
        mean_gap=work.mean_gap,
    )


class _Work:
    """Photo after photo made small; remembers the worst residuals and the words that were needed."""

    def __init__(self, measured: Measured, side: int) -> None:
        self.measured, self.side = measured, side
        self.residual = self.rounding = 0.0
        is_mean = measured.model.network.fusion.averages_probabilities
        self.mean_gap: float | None = 0.0 if is_mean else None
        self.exact: dict[str, bool] = {}
        self.targets: dict[str, tuple[str, ...]] = {}
        self.words: dict[str, dict[int, str]] = {}

    def note(self, found: Decomposition) -> None:
        """Takes down what a batch tells of all."""
        self.residual = max(self.residual, float(found.residual().max()))
        self.exact, self.targets = dict(found.exact), found.targets
        if self.mean_gap is not None:
            mean = torch.stack(list(found.probabilities.values())).mean(0)
            self.mean_gap = max(self.mean_gap, float((mean - found.fused).abs().max()))

    def photo(self, found: Decomposition, b: int, classes: list[int]) -> dict[str, Any]:
        """Everything of one photo that the page shows."""
        bias = {target: (value[b] if value.ndim == 2 else value)[classes] for target, value in found.bias.items()}
        return {
            "classes": classes,
            "logits": {target: _rounded(value[b, classes]) for target, value in found.logits.items()},
            "bias": {target: _rounded(value) for target, value in bias.items()},
            "sums": {
                key: {s: _rounded(m[b, classes].double().sum((1, 2))) for s, m in stages.items()}
                for key, stages in found.maps.items()
            },
            "maps": {
                key: {s: self._map(m[b, classes]) for s, m in stages.items()} for key, stages in found.maps.items()
            },
            "vectors": {key: self._vector(key, v[b, classes]) for key, v in found.vectors.items()},
        }

    def stream(self, key: str, shapes: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
        """What the page must know of a stream."""
        target = next(name for name, keys in self.targets.items() if key in keys)
        stages = {s: [min(h, self.side), min(w, self.side)] for s, (h, w) in shapes.items()}
        return {"key": key, "stages": stages, "exact": self.exact[key], "target": target}

    def _map(self, maps_Khw: Tensor) -> list[Any]:
        packed = pack(maps_Khw, side=self.side)
        self.rounding = max(self.rounding, packed.error)
        return [float(f"{packed.scale:.6g}"), packed.data]

    def _vector(self, key: str, given_KD: Tensor) -> dict[str, Any]:
        """The entries that gave most to each class, and the sum of all."""
        entries = []
        source = self.measured.model.inputs[key]
        vocabulary = source.vocabulary if isinstance(source, Vector) else ()
        for row in given_KD.double().cpu():
            top = sorted(row.abs().topk(min(ENTRIES, len(row))).indices.tolist(), key=lambda i: -float(row[i]))
            entries.append([[i, _short(float(row[i]))] for i in top])
            names = self.words.setdefault(key, {})
            names |= {i: str(vocabulary[i]) if len(vocabulary) else f"entry {i}" for i in top}
        return {"entries": entries, "sum": _rounded(given_KD.double().sum(1))}


@torch.no_grad()
def typical(measured: Measured, key: str, *, whole: bool) -> dict[str, list[float]]:
    """What each stage of a linear stream gives to each class where the photo is the average of the training part.

    An affine function changes by as much whatever else there is, so any photo shows it: here the first.
    """
    network, device = measured.model.network, measured.runtime.device

    def logits(pooled: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
        output = network.fuse(pooled)
        return (output.logits if whole else output.streams[key])[0].double().cpu()

    pooled = {k: {s: p[:1].to(device) for s, p in stages.items()} for k, stages in measured.pooled.items()}
    found = {}
    with evaluating(network):
        for stage, tap in network.branches[key].taps.items():
            nothing = {**pooled, key: {**pooled[key], stage: torch.zeros_like(pooled[key][stage])}}
            average = {**pooled, key: {**pooled[key], stage: tap.baseline.expand_as(pooled[key][stage])}}
            found[stage] = _rounded(logits(average) - logits(nothing))
    return found


def _about(measured: Measured, row: int) -> dict[str, Any]:
    """A photo's name, label and what was said of it, by whom."""
    return {
        "name": printable(measured.table.ids[row]),
        "label": int(measured.table.labels[row]),
        "predicted": int(measured.probabilities[row].argmax()),
        "probabilities": _rounded(torch.from_numpy(measured.probabilities[row])),
        "own": {key: _rounded(torch.from_numpy(p[row])) for key, p in measured.streams.items()}
        if len(measured.model.network.branches) > 1
        else {},
    }


def _shapes(measured: Measured) -> dict[str, dict[str, tuple[int, int]]]:
    """{key: {stage: (h, w)}} of the tapped maps."""
    found = {}
    for key, branch in measured.model.network.branches.items():
        if not branch.is_vector:
            shapes = branch.stream.map_shapes()
            found[key] = {stage: (shapes[stage][2], shapes[stage][3]) for stage in branch.taps}
    return found


def _rounded(values: Tensor | NDArray[np.float64]) -> list[Any]:
    """Nested lists of numbers with six digits."""
    return [_rounded(v) if v.ndim else _short(float(v)) for v in torch.as_tensor(values).cpu()]


def _short(value: float) -> float:
    return float(f"{value:.5g}")
