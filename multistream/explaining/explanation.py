"""The explanation of one photo: its numbers and its arrays, extracted from those of an explained batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from multistream.explaining.attribution import Attribution, ResolvedRequest
from multistream.explaining.decomposition import ContributionKind
from multistream.explaining.forward import ForwardPass
from multistream.explaining.games import ShapleyValues
from multistream.nn.nested import map_stages, take_rows
from multistream.runs.predictions_file import SEPARATOR

TOP = 8
"""The number of vector entries listed in an explanation."""
FUSED = "fused"
"""The name of the whole network's classifier; the streams' classifiers are named by key."""


FLOWS = {"direct": "gradient through each stage's own tap", "total": "also through deeper stages"}
ABSENT = {"mean": "replaced by the training mean", "zero": "replaced by zeros", "drop": "dropped"}
"""The printed descriptions of an explanation's settings."""


@dataclass(frozen=True)
class ExplanationArrays:
    """One photo's tensors on the CPU. C is the number of classes K, or 1: only the target.

    `columns` are the indices on the C axis of the target and of the class it is compared against. `maps`
    {key: {stage: (C, h, w)}}, `vectors` {key: (C, D)}, `tokens` {key: (T, W)} of integrated gradients. `shapley`
    (C, S), `shapley_stages` {key: (C, T)}, `interactions` (C, S, S), `attention` {key: (T,)}. `logits`, `bias` and
    `remainder` {name: (C,)} are by classifier: `fused`, or a stream's key. `probabilities` {key: (K,)} are those of
    each stream's own classifier. `image` is the network's input, uint8 (3, S, S); `aspect` is the photo's width divided
    by its height; `inputs` {key: (D,)} are the input vectors.
    """

    image: Tensor | None
    aspect: float
    inputs: Mapping[str, Tensor]
    columns: tuple[int, int | None]
    logits: Mapping[str, Tensor]
    bias: Mapping[str, Tensor]
    remainder: Mapping[str, Tensor]
    probabilities: Mapping[str, Tensor]
    maps: Mapping[str, Mapping[str, Tensor]]
    vectors: Mapping[str, Tensor]
    tokens: Mapping[str, Tensor]
    shapley: Tensor
    shapley_stages: Mapping[str, Tensor]
    interactions: Tensor
    attention: Mapping[str, Tensor]

    @property
    def target_maps(self) -> dict[str, dict[str, Tensor]]:
        """The target's maps {key: {stage: (h, w)}}, minus those of the class it is compared against."""
        return map_stages(self.maps, self._of_target)

    @property
    def target_vectors(self) -> dict[str, Tensor]:
        """The target's vectors {key: (D,)}, minus those of the class it is compared against."""
        return {key: self._of_target(v) for key, v in self.vectors.items()}

    def _of_target(self, values_C: Tensor) -> Tensor:
        target, against = self.columns
        return values_C[target] if against is None else values_C[target] - values_C[against]


@dataclass(frozen=True)
class Explanation:
    """The signed contributions to the score of `target` (minus that of `against`, if given) in one photo.

    With `decomposition`, `stages` and `vectors` of the streams whose kind in `kinds` is `exact` sum with `bias` to
    `logits`, up to `residual`. Those of a `local` stream are gradient x input, and `remainder` is the rest of the
    logit. For late and gated fusion the sums hold for each stream's own logit. `grad-cam` and `integrated-gradients`
    explain `value`, on `scale`; integrated gradients sum, up to `gap`, to the difference between `value` and the value
    of the training mean. `shapley` are the streams' exact Shapley values of the fused score on `scale`,
    `shapley_stages` the Owen values of their stages, and `interactions` those of pairs ("a+b"); `baseline` replaces
    absent streams. `probability` is that of the fused logits divided by `temperature`, which is 1 unless the network
    was calibrated. `label` joins the photo's `labels`. `decisions` is the class that each stream chooses alone: that of
    its own classifier or, with early fusion, the class of its largest Shapley value. `warnings` name the components
    whose declarations do not hold.
    """

    path: str
    status: str
    label: str = ""
    labels: Sequence[str] = ()
    predicted: str = ""
    target: str = ""
    against: str = ""
    probability: float = 0.0
    temperature: float = 1.0
    value: float = 0.0
    method: str = ""
    flow: str = ""
    scale: str = ""
    baseline: str = ""
    logits: Mapping[str, float] = field(default_factory=dict)
    bias: Mapping[str, float] = field(default_factory=dict)
    remainder: Mapping[str, float] = field(default_factory=dict)
    stages: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    vectors: Mapping[str, float] = field(default_factory=dict)
    entries: Mapping[str, Sequence[tuple[str, float]]] = field(default_factory=dict)
    exact: Mapping[str, bool] = field(default_factory=dict)
    kinds: Mapping[str, ContributionKind] = field(default_factory=dict)
    residual: float | None = None
    gap: float | None = None
    shapley: Mapping[str, float] = field(default_factory=dict)
    shapley_stages: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    interactions: Mapping[str, float] = field(default_factory=dict)
    attention: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    decisions: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    arrays: ExplanationArrays | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Returns the object of `explain --json`: all fields except the arrays."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "arrays"}
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}

    @property
    def subject(self) -> str:
        """The explained class, or classes: "fear" or "fear against awe"."""
        return f"{self.target} against {self.against}" if self.against else self.target

    @property
    def settings(self) -> str:
        """The settings in words: method, scale, and the baseline of the Shapley values."""
        method = f"{self.method} ({FLOWS[self.flow]})" if self.method == "grad-cam" else self.method
        return f"method: {method}; scale: {self.scale}; absent streams: {ABSENT[self.baseline]}"


@dataclass(frozen=True)
class ExplainedBatch:
    """A batch with all results computed for it; `explanation` returns the record of one photo.

    `batch` is the network's input, on its device; `attribution` is on the CPU. `chosen` (B, S) are the columns of the
    classes that each stream chooses alone. `vocabularies` are the names of vector entries, by key of the stream.
    """

    rows: Sequence[int]
    """The photos' rows in the table."""
    batch: Mapping[str, Tensor]
    classes: Sequence[str]
    vocabularies: Mapping[str, Sequence[str]]
    request: ResolvedRequest
    forward: ForwardPass
    attribution: Attribution
    shapley: ShapleyValues
    chosen: Tensor
    attention: Mapping[str, Tensor]

    def explanation(self, place: int, *, path: str, labels: Sequence[str], aspect: float) -> Explanation:
        """Returns the record of the photo at index `place` of the batch."""
        attribution, columns = self.attribution, self.attribution.columns
        target = int(columns.rows[place])
        logits = self.forward.output.logits
        vectors = {key: vector[place] for key, vector in attribution.target_vectors.items()}
        return Explanation(
            path=path,
            status="ok",
            label=SEPARATOR.join(labels),
            labels=tuple(labels),
            predicted=self.classes[int(logits[place].argmax())],
            target=self.classes[target],
            against=self.classes[int(columns.against[place])] if columns.against is not None else "",
            probability=float(self.forward.probabilities[place, target]),
            temperature=self.forward.temperature,
            value=float(columns.score(logits)[place]),
            method=attribution.method,
            flow=self.request.flow,
            scale=columns.scale,
            baseline=self.request.baseline,
            logits=self._numbers(attribution.logits, place),
            bias=self._numbers(attribution.bias, place),
            remainder=self._numbers(attribution.remainder, place),
            stages=self._stages(place),
            vectors={key: float(vector.sum(dtype=torch.float64)) for key, vector in vectors.items()},
            entries={key: _largest(vector, self.vocabularies.get(key, ())) for key, vector in vectors.items()},
            exact={key: kind == "exact" for key, kind in attribution.kinds.items()},
            kinds=dict(attribution.kinds),
            residual=_number(attribution.residual, place),
            gap=_number(attribution.gap, place),
            decisions={key: self.classes[int(k)] for key, k in zip(self.shapley.keys, self.chosen[place], strict=True)},
            warnings=attribution.warnings,
            arrays=self._arrays(place, aspect=aspect),
            **self._games(place),  # type: ignore[arg-type]  # four mappings, named below
        )

    def _numbers(self, values: Mapping[str, Tensor], place: int) -> dict[str, float]:
        """Selects the target's values of one photo, by classifier."""
        return {name or FUSED: float(self.attribution.of_target(v)[place]) for name, v in values.items()}

    def _games(self, place: int) -> dict[str, dict[str, object]]:
        """Returns the Shapley values of streams and stages, the interactions of pairs, and the attention."""
        values, pick = self.shapley, self.attribution.columns.pick
        pairs = pick(values.interactions)[place]
        stages = {key: list(stages) for key, stages in self.forward.maps.items()}
        return {
            "shapley": dict(zip(values.keys, pick(values.streams)[place].tolist(), strict=True)),
            "shapley_stages": {
                key: _by_stage(stages[key], pick(part)[place])
                for key, part in values.stages.items()
                if len(stages[key]) > 1
            },
            "interactions": {
                f"{a}+{b}": float(pairs[i, j]) for (i, a), (j, b) in combinations(enumerate(values.keys), 2)
            },
            "attention": {key: _by_stage(stages[key], part[place]) for key, part in self.attention.items()},
        }

    def _stages(self, place: int) -> dict[str, dict[str, float]]:
        """Returns the contribution of each stage: the sum of its map."""
        return map_stages(self.attribution.target_maps, lambda m: float(m[place].sum(dtype=torch.float64)))

    def _arrays(self, place: int, *, aspect: float) -> ExplanationArrays:
        attribution, columns = self.attribution, self.attribution.columns
        image = self.batch.get("image")

        def all_or_target(values_BK: Tensor) -> Tensor:
            """Selects one photo's values of all K classes, or only of the target, on the CPU."""
            return (values_BK[place] if attribution.every_class else columns.pick(values_BK)[place].unsqueeze(0)).cpu()

        against = None if columns.against is None else int(columns.against[place])
        return ExplanationArrays(
            image=None if image is None else image[place].cpu(),
            aspect=aspect,
            inputs={key: self.forward.pooled[key][stage][place].cpu() for key, stage in self._vector_stages().items()},
            columns=(int(columns.rows[place]), against) if attribution.every_class else (0, None),
            logits=_classifiers_row(attribution.logits, place),
            bias=_classifiers_row(attribution.bias, place),
            remainder=_classifiers_row(attribution.remainder, place),
            probabilities={
                key: self.forward.probabilities_of(own[place : place + 1])[0].cpu()
                for key, own in self.forward.output.streams.items()
            },
            maps=take_rows(attribution.maps, place),
            vectors=_row(attribution.vectors, place),
            tokens=_row(attribution.tokens, place),
            shapley=all_or_target(self.shapley.streams),
            shapley_stages={key: all_or_target(part) for key, part in self.shapley.stages.items()},
            interactions=all_or_target(self.shapley.interactions),
            attention={key: part[place].cpu() for key, part in self.attention.items()},
        )

    def _vector_stages(self) -> dict[str, str]:
        """Returns the single stage of each vector stream, by key."""
        return {key: next(iter(self.forward.pooled[key])) for key in self.attribution.vectors}


def _number(values_B: Tensor | None, place: int) -> float | None:
    return None if values_B is None else float(values_B[place])


def _row(values: Mapping[str, Tensor], place: int) -> dict[str, Tensor]:
    return {name: value[place] for name, value in values.items()}


def _classifiers_row(values: Mapping[str, Tensor], place: int) -> dict[str, Tensor]:
    """Selects one photo's values of each classifier."""
    return {name or FUSED: value[place] for name, value in values.items()}


def _by_stage(stages: Sequence[str], values_T: Tensor) -> dict[str, float]:
    return dict(zip(stages, values_T.tolist(), strict=True))


def _largest(values_D: Tensor, vocabulary: Sequence[str]) -> list[tuple[str, float]]:
    """Returns the entries with the largest absolute contributions."""
    order = values_D.abs().argsort(descending=True)[:TOP].tolist()
    return [(entry_name(vocabulary, i), float(values_D[i])) for i in order]


def entry_name(vocabulary: Sequence[str], place: int) -> str:
    """Returns the name of a vector's entry."""
    return vocabulary[place] if vocabulary else f"entry {place}"


def chosen_classes(forward: ForwardPass, streams_BKS: Tensor) -> Tensor:
    """Returns the columns (B, S) of the classes that each stream chooses alone.

    It is the most probable class of the stream's own classifier if the fusion has one for each stream (late, gated).
    With early fusion it is the class with the stream's largest Shapley value (B, K, S).
    """
    by_stream = forward.output.streams
    if len(by_stream) == streams_BKS.shape[2]:
        return torch.stack([logits.argmax(1).cpu() for logits in by_stream.values()], dim=1)
    return streams_BKS.argmax(1).cpu()
