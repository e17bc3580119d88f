"""The page's gallery: the choice of its images, and their attributions in a compact form."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.errors import printable
from multistream.explaining.decomposition import Decomposer, Decomposition
from multistream.explaining.forward import ForwardPass, forward_pass
from multistream.interfaces import VECTOR
from multistream.nn.modules import evaluating
from multistream.nn.nested import map_stages
from multistream.reporting.encoding import Thumbnail, affordable_side, encode_maps, thumbnail
from multistream.reporting.outputs import NetworkOutputs, batches
from multistream.runs.predictions_file import Predictions

MAP_BYTES = 22_000
"""The limit for the maps of one image, before base64 adds a third."""
CLASSES = 12
"""The number of explained classes of an image: its labels and the most probable others."""
ENTRIES = 8
"""The number of listed entries of a vector: those with the largest contributions."""


@dataclass(frozen=True)
class GalleryData:
    """The data that the page's script reads, and the measured residuals."""

    content: Mapping[str, Any]
    thumbnails: Sequence[Thumbnail]
    residuals: Mapping[str, float]
    """{key: largest relative |logit - sum of contributions|} of the streams whose components declare to be linear."""
    inexact: Mapping[str, str]
    """{key: why its contributions do not sum exactly to the logit}"""
    rounding: float
    """The largest error of a stored cell, as a fraction of the largest cell value of its stage."""
    mean_gap: float | None
    """For fusions that average probabilities: the largest |fused probability - mean of the streams'|."""


def select_images(predictions: Predictions, *, photos: int) -> list[int]:
    """Selects the rows of up to `photos` images: half of them misclassified if possible, spread over the labels.

    They are ordered by the files' sha256: an arbitrary but reproducible order.
    """
    labels = predictions.labels
    if labels is None:
        raise ValueError("images without labels are neither correct nor misclassified.")
    is_correct = predictions.correct.tolist()  # computed by each access
    order = sorted(range(len(predictions)), key=lambda i: (predictions.sha256[i], predictions.paths[i]))
    correct = [i for i in order if is_correct[i]]
    wrong = [i for i in order if not is_correct[i]]
    number_wrong = min(len(wrong), max(photos // 2, photos - len(correct)))
    chosen = _in_turn(wrong, labels)[:number_wrong] + _in_turn(correct, labels)[: photos - number_wrong]
    index = {name: k for k, name in enumerate(predictions.classes)}
    return sorted(chosen, key=lambda i: (index.get(labels[i], len(index)), not is_correct[i], order.index(i)))


def _in_turn(rows: Iterable[int], labels: Sequence[str]) -> list[int]:
    """Reorders rows: one of each label in turn."""
    queues: dict[str, deque[int]] = defaultdict(deque)
    for row in rows:
        queues[labels[row]].append(row)
    ordered = []
    while queues:
        for label in sorted(queues):
            ordered.append(queues[label].popleft())
        queues = defaultdict(deque, {label: queue for label, queue in queues.items() if queue})
    return ordered


def explained_classes(probabilities_K: NDArray[np.float64], labels_K: NDArray[np.bool_], *, most: int) -> list[int]:
    """Returns the explained classes of one image: all, or its labels and the most probable others."""
    ranked = np.lexsort((-probabilities_K, ~labels_K)).tolist()
    return sorted(ranked[:most])


def gallery_data(outputs: NetworkOutputs, rows: Sequence[int]) -> GalleryData:
    """Computes and encodes the attributions of these rows' images, four at a time."""
    probabilities, labels = outputs.probabilities, outputs.labels
    classes = {row: explained_classes(probabilities[row], labels[row], most=CLASSES) for row in rows}
    builder = _GalleryBuilder(outputs, number_of_classes=max(len(each) for each in classes.values()))
    shapley = dict(zip(rows, outputs.attribution(np.array(rows, dtype=np.int64)).streams.cpu(), strict=True))
    photos: list[dict[str, Any]] = []
    decomposer = Decomposer(outputs.model.network)
    for batch in batches(outputs, list(rows), size=4):
        index = batch.pop("index").tolist()
        forward = forward_pass(outputs.model.network, batch, runtime=outputs.runtime)
        decomposition = decomposer.decompose(forward)
        builder.add(decomposition, forward)
        for b, row in enumerate(index):
            values = _rounded(shapley[row][classes[row]])
            photos.append(
                {**_prediction(outputs, row), **builder.photo(decomposition, b, classes[row]), "shapley": values}
            )
    decoder = outputs.photos.decoder
    return GalleryData(
        content={
            "classes": list(outputs.model.classes),
            "streams": [builder.stream(key) for key in outputs.model.network.branches],
            "baseline": builder.baselines(),
            "vocabulary": builder.vocabulary,
            "photos": photos,
        },
        thumbnails=[thumbnail(decoder, outputs.table.path(row)) for row in rows] if decoder else [],
        residuals=builder.residuals,
        inexact=builder.inexact,
        rounding=builder.rounding,
        mean_gap=builder.mean_gap,
    )


class _GalleryBuilder:
    """Encodes image after image; keeps the largest residuals and the names of the listed vector entries."""

    def __init__(self, outputs: NetworkOutputs, *, number_of_classes: int) -> None:
        self.outputs, self.network = outputs, outputs.model.network
        self.shapes = _map_sizes(outputs)
        sizes = (size for stages in self.shapes.values() for size in stages.values())
        self.side = affordable_side(sizes, classes=number_of_classes, budget=MAP_BYTES)
        self.rounding = 0.0
        self.mean_gap: float | None = 0.0 if self.network.fusion.averages_probabilities else None
        self.residuals: dict[str, float] = {}
        self.is_exact: dict[str, bool] = {}
        self.faults: list[str] = []
        self.targets: Mapping[str, tuple[str, ...]] = {}
        self.vocabulary: dict[str, dict[int, str]] = {}

    @property
    def inexact(self) -> dict[str, str]:
        """{key: why its contributions do not sum exactly to the logit}"""
        return {key: self._why(key) for key, is_exact in self.is_exact.items() if not is_exact}

    def _why(self, key: str) -> str:
        if key in self.residuals:
            return f"the error is up to {self.residuals[key]:.1e} (relative). {self.faults[0].rstrip('.')}"
        return f"{_nonlinear_part(self.outputs, key)} is not linear"

    def add(self, found: Decomposition, forward: ForwardPass) -> None:
        """Updates residuals, faults and targets with a batch."""
        self.targets = found.targets
        self.faults += found.faults
        for key, kind in found.kinds.items():
            self.is_exact[key] = self.is_exact.get(key, True) and kind == "exact"
        for target, residual_B in found.residuals.items():
            largest = float(residual_B.max())
            self.residuals |= {key: max(self.residuals.get(key, 0.0), largest) for key in found.targets[target]}
        if self.mean_gap is not None:
            own = torch.stack([logits.double().softmax(1) for logits in forward.output.streams.values()])
            self.mean_gap = max(self.mean_gap, float((own.mean(0) - forward.probabilities).abs().max()))

    def photo(self, found: Decomposition, b: int, classes: list[int]) -> dict[str, Any]:
        """Returns the page's data of image `b` of the batch."""
        constant = {**found.bias, **found.remainder}
        return {
            "classes": classes,
            "logits": {target: _rounded(value[b, classes]) for target, value in found.logits.items()},
            "bias": {target: _rounded(value[b, classes]) for target, value in constant.items()},
            "sums": map_stages(found.maps, lambda m: _rounded(m[b, classes].double().sum((1, 2)))),
            "maps": map_stages(found.maps, lambda m: self._map(m[b, classes])),
            "vectors": {key: self._vector(key, v[b, classes]) for key, v in found.vectors.items()},
        }

    def stream(self, key: str) -> dict[str, Any]:
        """Returns the page's data of a stream: key, shapes of its maps, exactness and target."""
        target = next(name for name, keys in self.targets.items() if key in keys)
        sizes = self.shapes.get(key, {})
        stages = {s: [min(h, self.side), min(w, self.side)] for s, (h, w) in sizes.items()}
        return {"key": key, "stages": stages, "exact": key not in self.inexact, "target": target}

    def baselines(self) -> dict[str, dict[str, list[float]]]:
        """Returns {key: {stage: contributions of the training mean}} of the streams whose sum is exact."""
        whole = "" in self.targets
        return {
            key: baseline_contributions(self.outputs, key, whole=whole)
            for key in self.network.branches
            if key not in self.inexact
        }

    def _map(self, maps_Khw: Tensor) -> list[Any]:
        encoded = encode_maps(maps_Khw, side=self.side)
        self.rounding = max(self.rounding, encoded.error)
        return [float(f"{encoded.scale:.6g}"), encoded.data]

    def _vector(self, key: str, contributions_KD: Tensor) -> dict[str, Any]:
        """Returns the entries with the largest contributions to each class, and the sum of all entries."""
        entries = []
        vocabulary = self.network.branches[key].stream.channel_names(VECTOR)
        names = self.vocabulary.setdefault(key, {})
        for row in contributions_KD.double().cpu():
            top = sorted(row.abs().topk(min(ENTRIES, len(row))).indices.tolist(), key=lambda i: -float(row[i]))
            entries.append([[i, _short(float(row[i]))] for i in top])
            names |= {i: str(vocabulary[i]) if len(vocabulary) else f"entry {i}" for i in top}
        return {"entries": entries, "sum": _rounded(contributions_KD.double().sum(1))}


def _nonlinear_part(outputs: NetworkOutputs, key: str) -> str:
    """Names the component because of which a stream has no exact sum."""
    network, settings = outputs.model.network, outputs.model.recipe.network
    branch = network.branches[key]
    if not all(tap.linear for tap in branch.taps.values()):
        return f"the tap {settings.tap}"
    if branch.temporal is not None and not branch.temporal.linear:
        return f"the temporal module {settings.temporal}"
    return "its head" if network.fusion.heads else f"the fusion {settings.fusion}"


@torch.no_grad()
def baseline_contributions(outputs: NetworkOutputs, key: str, *, whole: bool) -> dict[str, list[float]]:
    """Returns {stage: (K,)}: the contributions of a linear stream's stages at the training mean of their features.

    The logit is affine in the pooled features, so they are equal for all images; the first image is used.
    """
    network, device = outputs.model.network, outputs.runtime.device

    def logits(pooled: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
        output = network.fuse(pooled)
        return (output.logits if whole else output.streams[key])[0].double().cpu()

    pooled = map_stages(outputs.pooled, lambda p: p[:1].to(device))
    contributions = {}
    with evaluating(network):
        for stage, tap in network.branches[key].taps.items():
            zero = {**pooled, key: {**pooled[key], stage: torch.zeros_like(pooled[key][stage])}}
            mean = {**pooled, key: {**pooled[key], stage: tap.baseline.expand_as(pooled[key][stage])}}
            contributions[stage] = _rounded(logits(mean) - logits(zero))
    return contributions


def _prediction(outputs: NetworkOutputs, row: int) -> dict[str, Any]:
    """Returns an image's name, labels and probabilities, with the probabilities of the streams' own classifiers.

    `shown` is the most probable class, which the page explains first.
    """
    several = len(outputs.model.network.branches) > 1
    return {
        "name": printable(outputs.table.ids[row]),
        "labels": np.flatnonzero(outputs.labels[row]).tolist(),
        "predicted": np.flatnonzero(outputs.predicted[row]).tolist(),
        "shown": int(outputs.probabilities[row].argmax()),
        "probabilities": _rounded(torch.from_numpy(outputs.probabilities[row])),
        "alone": {key: _rounded(torch.from_numpy(p[row])) for key, p in outputs.streams.items()} if several else {},
    }


def _map_sizes(outputs: NetworkOutputs) -> dict[str, dict[str, tuple[int, int]]]:
    """Returns {key: {stage: (h, w)}} of the tapped maps."""
    sizes = {}
    for key, branch in outputs.model.network.branches.items():
        if not branch.is_vector:
            shapes = branch.stream.map_shapes()
            sizes[key] = {stage: (shapes[stage][2], shapes[stage][3]) for stage in branch.taps}
    return sizes


def _rounded(values: Tensor) -> list[Any]:
    """Converts a tensor to nested lists of numbers with five significant digits."""
    return [_rounded(v) if v.ndim else _short(float(v)) for v in values.cpu()]


def _short(value: float) -> float:
    return float(f"{value:.5g}")
