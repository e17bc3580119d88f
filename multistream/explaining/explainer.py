"""explain: for photos and a class, how much each stream, stage, pixel and vector entry gave to the decision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multistream.beside import gather
from multistream.data.loading import loaded
from multistream.data.tables import Table
from multistream.errors import UsageError, did_you_mean
from multistream.explaining.attribution import Attribution, Baseline, attribute
from multistream.explaining.decomposition import Decomposition, decompose
from multistream.inputs import Vector
from multistream.model import Model, require_trained
from multistream.prediction import expanded
from multistream.recipe import RuntimeSettings
from multistream.runtime import available_workers, resolve
from multistream.training.preparation import make_photos

CHUNK = 16
"""Photos that are explained together: with 8 classes a VGG16's maps take 4 MB a photo."""
TOP = 8
"""Vector entries that are named."""


@dataclass(frozen=True)
class Explanation:
    """One photo's evidence for the class `target`; values are on the logit scale and signed.

    Where all of `exact` is True, `bias` and all of `stages` and `vectors` sum to `logit`, up to `residual`. For late
    and gated fusion the sums hold for each stream's own logit, in `logits`. `shapley` are the streams' Shapley values
    of the fused logit.
    """

    path: str
    status: str
    predicted: str = ""
    target: str = ""
    probability: float = 0.0
    logits: Mapping[str, float] = field(default_factory=dict)
    bias: Mapping[str, float] = field(default_factory=dict)
    stages: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    vectors: Mapping[str, float] = field(default_factory=dict)
    entries: Mapping[str, Sequence[tuple[str, float]]] = field(default_factory=dict)
    shapley: Mapping[str, float] = field(default_factory=dict)
    exact: Mapping[str, bool] = field(default_factory=dict)
    residual: float = 0.0
    baseline: str = "mean"

    def to_dict(self) -> dict[str, Any]:
        """An object of `explain --json`."""
        return asdict(self)


@dataclass(frozen=True)
class Explained:
    """A chunk of photos with all that was found: rows of the tensors are `indices` of the photos asked for."""

    indices: Tensor
    paths: tuple[Path, ...]
    images: Tensor | None
    """(B, 3, S, S) uint8, as the network saw them."""
    targets: tuple[int, ...]
    decomposition: Decomposition
    attribution: Attribution
    explanations: tuple[Explanation, ...]


def explain(
    model: Model,
    images: Sequence[str | Path],
    *,
    target: str = "predicted",
    baseline: Baseline = "mean",
    inputs: Mapping[str, str] | None = None,
    device: str = "auto",
) -> Iterator[Explained | Explanation]:
    """Explains photos chunk by chunk, in float32: exact where the composition is linear, and marked where it is not.

    `target` is a class's name or `predicted`. Files that cannot be decoded come last, each as an Explanation with its
    status alone. Raises UsageError for an unknown class.
    """
    require_trained(model, "explain")
    if target != "predicted" and target not in model.classes:
        raise UsageError(
            "--target", f"{target!r} is no class.", right=did_you_mean(target, [*model.classes, "predicted"])
        )
    paths = tuple(Path(str(path)) for path in expanded(images))
    table = Table("photos", Path(), tuple(map(str, paths)), np.zeros(len(paths), dtype=np.int64), model.classes)
    settings = replace(model.recipe.data, on_bad_image="report")
    beside = gather(table, model.inputs, dict(inputs or {}), missing=settings.missing_vectors, resize=settings.resize)
    runtime = resolve(RuntimeSettings(device=device, precision="fp32"))
    network = runtime.place(model.network)
    photos = make_photos(table, network, beside, settings)
    for batch in loaded(photos, np.flatnonzero(beside.usable), batch_size=CHUNK, workers=available_workers()):
        indices = batch.pop("index")
        if not len(indices):
            continue
        sent = runtime.send(batch)
        found = decompose(network, sent, runtime=runtime)
        with torch.no_grad():
            given = attribute(network, network.pool(sent), baseline=baseline, stages=False)
        predicted = found.fused.argmax(1).tolist()
        targets = predicted if target == "predicted" else [model.classes.index(target)] * len(indices)
        chosen = tuple(paths[int(i)] for i in indices)
        explained = tuple(
            _explanation(model, found, given, row, str(chosen[row]), predicted[row], targets[row])
            for row in range(len(indices))
        )
        yield Explained(indices, chosen, batch.get("image"), tuple(targets), found, given, explained)
    for index, reason in sorted(photos.bad.items()):
        yield Explanation(str(paths[index]), reason)


def _explanation(
    model: Model, found: Decomposition, given: Attribution, row: int, path: str, predicted: int, target: int
) -> Explanation:
    """One row of a chunk in numbers."""
    vocabulary = {key: each.vocabulary for key, each in model.inputs.items() if isinstance(each, Vector)}
    bias = {name: (b[row] if b.ndim == 2 else b)[target] for name, b in found.bias.items()}
    return Explanation(
        path=path,
        status="ok",
        predicted=model.classes[predicted],
        target=model.classes[target],
        probability=float(found.fused[row, target]),
        logits={name or "fused": float(logits[row, target]) for name, logits in found.logits.items()},
        bias={name or "fused": float(value) for name, value in bias.items()},
        stages={k: {s: float(m[row, target].sum()) for s, m in stages.items()} for k, stages in found.maps.items()},
        vectors={key: float(v[row, target].sum()) for key, v in found.vectors.items()},
        entries={key: _top(v[row, target], vocabulary[key]) for key, v in found.vectors.items()},
        shapley={key: float(given.streams[row, target, i]) for i, key in enumerate(given.keys)},
        exact=dict(found.exact),
        residual=float(found.residual()[row]),
        baseline=given.baseline,
    )


def _top(values_D: Tensor, vocabulary: Sequence[str]) -> list[tuple[str, float]]:
    """The entries that gave most, for or against."""
    order = values_D.abs().argsort(descending=True)[:TOP].tolist()
    return [(vocabulary[i] if vocabulary else f"entry {i}", float(values_D[i])) for i in order]
